//! How the API server is reached.
//!
//! Decides which address and credentials are used (contract C48). Must not connect. Invariant: never
//! the API server's own ClusterIP as far as that can be told: this program is what makes it work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What the user says of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it, if not its current one.
    pub context: Option<String>,
    /// Its real address, `https://HOST:PORT`, instead of the one in the kubeconfig or environment.
    pub apiserver: Option<String>,
    /// The name that its certificate is checked against, if not the address.
    pub server_name: Option<String>,
}

/// Why the API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum NoAccess {
    /// The address is none.
    #[error("--apiserver {0}: {1}; write it like https://192.0.2.1:6443")]
    Address(String, String),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {} cannot be used: {reason}", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No kubeconfig and no service account.
    #[error(
        "there is no way to reach an API server: {0}; give a file with --kubeconfig, or an address with --apiserver, \
         or run in a pod with a service account"
    )]
    Nowhere(String),
    /// The ClusterIP.
    #[error(
        "the API server's address {0} is its own ClusterIP, which works only while this agent serves it; give its \
         real address with --apiserver https://HOST:PORT (kubectl get endpointslices -n default shows it)"
    )]
    OwnClusterIp(String),
    /// TLS, certificates, credentials.
    #[error("the API server's client cannot be set up: {0}")]
    Client(String),
}

impl Access {
    /// Address and credentials.
    pub(super) async fn config(&self, silence: Duration, connect: Duration) -> Result<Config, NoAccess> {
        let address = self.apiserver.as_deref().map(address).transpose()?;
        let mut config = self.base(address.as_ref()).await?;
        if let Some(address) = address {
            config.cluster_url = address;
        }
        if self.server_name.is_some() {
            config.tls_server_name.clone_from(&self.server_name);
        }
        // The way that other programs' traffic takes out of the node is not the way to its API server. A proxy that
        // the kubeconfig itself names is (and is refused, by name, by a client that was built without).
        let environment = ["HTTPS_PROXY", "https_proxy"].map(|name| std::env::var(name).ok());
        config.proxy_url = config.proxy_url.filter(|proxy| !is_one_of(proxy, &environment));
        // Bookmarks come once a minute: a server that says nothing for longer is gone.
        config.read_timeout = Some(silence);
        config.reset_reader_on_write = true;
        config.connect_timeout = Some(connect);
        // Retrying is ours, so that it is told and counted.
        config.default_retry = false;
        Ok(config)
    }

    async fn base(&self, address: Option<&http::Uri>) -> Result<Config, NoAccess> {
        let context = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let broken = |error: kube::config::KubeconfigError| NoAccess::Kubeconfig {
                path: path.clone(),
                reason: error.to_string(),
            };
            let file = Kubeconfig::read_from(path).map_err(broken)?;
            return Config::from_custom_kubeconfig(file, &context).await.map_err(broken);
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if variable("KUBECONFIG").is_none() && Path::new(SERVICE_ACCOUNT_TOKEN).exists() {
            if address.is_some() {
                return Config::incluster_dns().map_err(|error| NoAccess::Nowhere(error.to_string()));
            }
            let host = variable("KUBERNETES_SERVICE_HOST");
            if let Some(ip) = own_cluster_ip(host, variable("KUBERNETES_PORT_443_TCP_ADDR").as_deref()) {
                return Err(NoAccess::OwnClusterIp(ip));
            }
            return Config::incluster().map_err(|error| NoAccess::Nowhere(error.to_string()));
        }
        match (Config::from_kubeconfig(&context).await, address) {
            (Ok(config), _) => Ok(config),
            (Err(_), Some(address)) if variable("KUBECONFIG").is_none() => Ok(Config::new(address.clone())),
            (Err(error), _) => Err(NoAccess::Nowhere(error.to_string())),
        }
    }
}

/// In a pod the kubelet says where the API server is: its ClusterIP, unless the pod's own environment
/// overrides `KUBERNETES_SERVICE_HOST`; the other variable says the ClusterIP in any case.
fn own_cluster_ip(host: Option<String>, cluster_ip: Option<&str>) -> Option<String> {
    host.filter(|host| cluster_ip == Some(host))
}

fn is_one_of(uri: &http::Uri, texts: &[Option<String>]) -> bool {
    texts.iter().flatten().any(|text| text.parse::<http::Uri>().is_ok_and(|other| other == *uri))
}

fn address(text: &str) -> Result<http::Uri, NoAccess> {
    let wrong = |reason: &str| NoAccess::Address(text.to_owned(), reason.to_owned());
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri = full.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    match uri.scheme_str() {
        Some("https" | "http") => {}
        _ => return Err(wrong("it is neither https nor http")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c48_the_cluster_ip_is_refused_and_an_address_from_the_pod_spec_is_taken() {
        let ip = |ip: &str| Some(ip.to_owned());
        assert_eq!(own_cluster_ip(ip("10.96.0.1"), Some("10.96.0.1")), ip("10.96.0.1"));
        assert_eq!(own_cluster_ip(ip("192.0.2.1"), Some("10.96.0.1")), None);
        assert_eq!(own_cluster_ip(ip("192.0.2.1"), None), None);
    }

    #[test]
    fn a_proxy_of_the_environment_is_told_from_one_of_the_kubeconfig() {
        let environment = [Some("http://proxy.example:3128".to_owned()), None];
        assert!(is_one_of(&"http://proxy.example:3128".parse().unwrap(), &environment));
        assert!(!is_one_of(&"http://other.example:3128".parse().unwrap(), &environment));
    }

    #[test]
    fn an_address_without_a_scheme_is_https_and_others_are_refused() {
        assert_eq!(address("192.0.2.1:6443").unwrap().to_string(), "https://192.0.2.1:6443/");
        assert_eq!(address("http://[::1]:8080").unwrap().host(), Some("[::1]"));
        for wrong in ["ftp://192.0.2.1", "https://", "a b", ""] {
            let message = address(wrong).unwrap_err().to_string();
            assert!(message.contains("https://192.0.2.1:6443"), "{wrong}: {message}");
        }
    }

    #[tokio::test]
    async fn c48_the_address_given_replaces_the_kubeconfigs_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(
            &path,
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{name: c, context: {cluster: k, user: u}}]\n\
             clusters: [{name: k, cluster: {server: 'https://10.96.0.1'}}]\n\
             users: [{name: u, user: {token: t}}]\n",
        )
        .unwrap();
        let seconds = Duration::from_secs(1);
        let mut access = Access { kubeconfig: Some(path.clone()), ..Access::default() };
        assert_eq!(access.config(seconds, seconds).await.unwrap().cluster_url.host(), Some("10.96.0.1"));
        access.apiserver = Some("https://192.0.2.1:6443".to_owned());
        assert_eq!(access.config(seconds, seconds).await.unwrap().cluster_url.host(), Some("192.0.2.1"));
        std::fs::write(&path, "[").unwrap();
        let message = access.config(seconds, seconds).await.unwrap_err().to_string();
        assert!(message.contains("config cannot be used"), "{message}");
    }
}
