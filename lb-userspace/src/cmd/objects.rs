//! Where objects come from, as the user says it.
//!
//! Decides which source is opened and how its findings are told. Must not know what objects are used
//! for. Invariant: whoever asks sees updates of one shape, whichever source they are from.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;

use crate::model::{Change, Kind, ObjectKey, ObjectName};
use crate::source::file::{FileSource, Host, Snapshot, host_name, read_once};
use crate::source::kube::{Access, KubeSource, Notice, Notices, Timing};
use crate::source::{Finding, Severity, Update};

/// Where Services, EndpointSlices and Nodes come from.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Source")]
pub(super) struct SourceArgs {
    /// Where Services, EndpointSlices and Nodes come from; file if left out.
    #[arg(long, value_enum)]
    source: Option<Source>,
    /// The folder of manifests, YAML or JSON (source file).
    #[arg(long, value_name = "DIR", required_unless_present = "source", required_if_eq("source", "file"))]
    path: Option<PathBuf>,
    /// This node's name; the host's name if left out.
    #[arg(long, env = "NODE_NAME")]
    node: Option<String>,
    /// A kubeconfig file (source kube); by default the one that KUBECONFIG names, a pod's service account, or
    /// ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, if not its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The API server's real address, where the kubeconfig or the pod's environment name another: its ClusterIP
    /// works only while the agent serves it.
    #[arg(long, value_name = "URL", env = "SWITCHBOARD_APISERVER")]
    apiserver: Option<String>,
    /// The name in the API server's certificate, if not its address: kubernetes.default.svc is in most.
    #[arg(long, value_name = "NAME")]
    apiserver_name: Option<String>,
}

/// Where objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// A folder of manifests.
    File,
    /// A Kubernetes API server.
    Kube,
}

impl SourceArgs {
    /// The node's name.
    ///
    /// # Errors
    /// Where none is given and the kernel does not tell the host's.
    pub(super) fn node(&self) -> anyhow::Result<String> {
        self.node.clone().map_or_else(host_name, Ok)
    }

    /// Opens the source, to be watched.
    ///
    /// # Errors
    /// Where the folder cannot be read, or it cannot be told how to reach an API server.
    pub(super) async fn open(&self) -> anyhow::Result<Objects> {
        match self.source.unwrap_or(Source::File) {
            Source::File => {
                let host = Host::this(self.node.clone())?;
                let source = FileSource::open(self.path()?, host)?;
                Ok(Objects::File(Box::new(Folder { source, told: Vec::new(), read: false })))
            }
            Source::Kube => Ok(Objects::Kube(Box::new(self.open_kube().await?))),
        }
    }

    /// Everything that the source has now.
    ///
    /// # Errors
    /// As [`Self::open`]; and where an API server does not give its lists in time.
    pub(super) async fn once(&self, patience: std::time::Duration) -> anyhow::Result<Update> {
        if self.source != Some(Source::Kube) {
            let (host, path) = (Host::this(self.node.clone())?, self.path()?);
            return Ok(update(read_once(path)?.with_node(&host, path), &[]));
        }
        let mut source = self.open_kube().await?;
        if let Ok(update) = tokio::time::timeout(patience, source.next()).await {
            return Ok(update);
        }
        let missing: Vec<String> = source.awaited().iter().map(Kind::to_string).collect();
        anyhow::bail!(
            "the API server did not list every {} within {patience:?}; the lines above say why",
            missing.join(" and ")
        )
    }

    async fn open_kube(&self) -> anyhow::Result<KubeSource> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            apiserver: self.apiserver.clone(),
            server_name: self.apiserver_name.clone(),
        };
        Ok(KubeSource::open(&access, &self.node()?, Timing::default()).await?)
    }

    fn path(&self) -> anyhow::Result<&std::path::Path> {
        self.path.as_deref().context("--path is missing: the folder of manifests that --source file reads")
    }
}

/// A source that is watched.
pub(super) enum Objects {
    /// A folder.
    File(Box<Folder>),
    /// An API server.
    Kube(Box<KubeSource>),
}

/// A folder, and what was told about it.
pub(super) struct Folder {
    source: FileSource,
    told: Vec<Finding>,
    read: bool,
}

impl Objects {
    /// Waits for what is new; the first time for everything. Cancel safe.
    pub(super) async fn next(&mut self) -> Update {
        match self {
            Self::Kube(source) => source.next().await,
            Self::File(folder) => folder.next().await,
        }
    }
}

impl Objects {
    /// How often requests have failed, by kind of objects and reason; a folder has none.
    pub(super) fn errors(&self) -> impl Iterator<Item = (Kind, &str, u64)> {
        let errors = match self {
            Self::Kube(source) => Some(source.errors()),
            Self::File(_) => None,
        };
        errors.into_iter().flatten().map(|((kind, reason), failed)| (*kind, reason.as_str(), *failed))
    }

    /// Where the owners of objects are told what they should know.
    pub(super) fn owners(&self) -> ToldOwners {
        match self {
            Self::Kube(source) => ToldOwners(Some(source.notices())),
            Self::File(_) => ToldOwners(None),
        }
    }
}

/// Tells the owners of objects what they should know: by Kubernetes Events, where there is an API server. Whoever
/// wrote a folder reads the log.
#[derive(Clone, Debug)]
pub(super) struct ToldOwners(Option<Notices>);

impl ToldOwners {
    /// Tells the owner of a Service. `reason` is in CamelCase.
    pub(super) fn tell(&self, service: ObjectName, reason: &'static str, message: String) {
        if let Self(Some(notices)) = self {
            notices.tell(Notice { object: ObjectKey::Service(service), reason, message });
        }
    }
}

impl Folder {
    async fn next(&mut self) -> Update {
        let snapshot = if std::mem::replace(&mut self.read, true) {
            self.source.changed().await
        } else {
            self.source.snapshot()
        };
        let update = update(snapshot.clone(), &self.told);
        self.told.clone_from(&snapshot.findings);
        update
    }
}

fn update(snapshot: Snapshot, told: &[Finding]) -> Update {
    let findings = snapshot.findings.into_iter().filter(|finding| !told.contains(finding)).collect();
    Update { changes: vec![Change::RelistAll(snapshot.objects)], findings, received: Instant::now() }
}

/// Says what is wrong with the input.
pub(super) fn tell(findings: &[Finding]) {
    for finding in findings {
        match finding.severity {
            Severity::Problem => tracing::warn!("{finding}"),
            Severity::Note => tracing::info!("{finding}"),
        }
    }
}
