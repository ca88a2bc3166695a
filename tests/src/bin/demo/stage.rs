//! The stage: the lab, the manifests' copy, the agent and the traffic.
//!
//! Decides addresses and how many clients there are. Invariant: the manifests of deploy/demo are copied, never
//! changed in place.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lb_tests::agent::{Agent, AgentConfig, Tool};
use lb_tests::lab::{Lab, Layout};
use lb_tests::poll;
use lb_tests::traffic::{EchoServer, Load, Protocol};
use serde_json::{Value, json};

/// Where the pods serve.
pub(crate) const POD_PORT: u16 = 8080;
/// Two addresses, TCP and UDP each.
const FRONTENDS: usize = 4;
const SOON: Duration = Duration::from_secs(15);
const PODS: [&str; 5] = ["a", "b", "c", "d", "e"];
const VIPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

/// Everything that is up.
pub(crate) struct Stage {
    agent: Option<Agent>,
    servers: Vec<EchoServer>,
    folder: PathBuf,
    lab: Lab,
}

impl Stage {
    /// Builds the lab and copies the manifests.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let pods: Vec<&str> = ["client"].into_iter().chain(PODS).collect();
        let lab = Lab::builder().node("node1", Layout::Routed, &pods).build()?;
        let folder = std::env::temp_dir().join(format!("switchboard-demo-{}", std::process::id()));
        copy_manifests(&folder)?;
        let servers = PODS
            .iter()
            .map(|name| EchoServer::start(&lab.pod(name).netns, name, &[POD_PORT]))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { agent: None, servers, folder, lab })
    }

    /// Starts the agent and waits until it is in sync.
    pub(crate) fn start_agent(&mut self) -> anyhow::Result<()> {
        let mut agent = Agent::start(self.lab.node("node1"), AgentConfig::new(&self.folder))?;
        agent.wait_in_sync(SOON)?;
        self.agent = Some(agent);
        Ok(())
    }

    fn agent(&mut self) -> anyhow::Result<&mut Agent> {
        self.agent.as_mut().context("the agent was not started")
    }

    /// Kills the agent with -9, which must have been alive till then.
    pub(crate) fn kill_agent(&mut self) -> anyhow::Result<()> {
        let agent = self.agent()?;
        anyhow::ensure!(agent.is_running(), "the agent had ended before it was to be killed");
        agent.kill9()
    }

    /// Starts the agent again; says how many rows it wrote.
    pub(crate) fn restart_agent(&mut self) -> anyhow::Result<u64> {
        let agent = self.agent()?;
        agent.restart()?;
        Ok(agent.wait_in_sync(SOON)?.rows_written)
    }

    /// New connections and datagrams all the time, and long-lived connections besides, over both families.
    pub(crate) fn start_traffic(&self) -> anyhow::Result<Vec<Load>> {
        let client = &self.lab.pod("client").netns;
        let mut loads = Vec::new();
        for vip in VIPS {
            let vip: IpAddr = vip.parse().context("reading an address")?;
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
                let load = Load::builder(client, protocol, SocketAddr::new(vip, port));
                loads.push(load.workers(2).pause(Duration::from_millis(2)).conversations(5).start()?);
            }
        }
        Ok(loads)
    }

    /// Leaves these pods in the Service: others first stop being ready, as pods that end do, and then go.
    pub(crate) fn scale(&self, names: &[&str]) -> anyhow::Result<()> {
        let endpoint = |name: &str, ipv6: bool, stays: bool| {
            let pod = self.lab.pod(name);
            let address = if ipv6 { pod.v6.to_string() } else { pod.v4.to_string() };
            json!({
                "addresses": [address],
                "nodeName": "node1",
                "conditions": {"ready": stays, "serving": true, "terminating": !stays},
            })
        };
        for with_ending in [true, false] {
            self.edit_slices(|slice| {
                let ipv6 = slice["addressType"] == "IPv6";
                let listed = PODS.iter().filter(|name| with_ending || names.contains(name));
                let endpoints: Vec<Value> =
                    listed.map(|name| endpoint(name, ipv6, names.contains(name))).collect();
                slice["endpoints"] = Value::Array(endpoints);
            })?;
            self.wait_for_backends(names.len())?;
        }
        Ok(())
    }

    fn edit_slices(&self, edit: impl Fn(&mut Value)) -> anyhow::Result<()> {
        let path = self.folder.join("endpoints.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut slices: Vec<Value> = text
            .split("\n---\n")
            .map(serde_saphyr::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| format!("understanding {}", path.display()))?;
        slices.iter_mut().for_each(edit);
        let texts: Vec<String> = slices.iter().map(Value::to_string).collect();
        let aside = self.folder.join(".endpoints.tmp");
        fs::write(&aside, texts.join("\n---\n")).with_context(|| format!("writing {}", aside.display()))?;
        fs::rename(&aside, &path).with_context(|| format!("putting {} in place", path.display()))
    }

    /// Waits until new connections may go to so many backends.
    fn wait_for_backends(&self, count: usize) -> anyhow::Result<()> {
        let tool = Tool::new(self.lab.node("node1"));
        poll::until("the new backends in the kernel's maps", SOON, || {
            let frontends = tool.get("frontends").map_err(|error| format!("{error:#}"))?;
            let rows = frontends.as_array().map(Vec::as_slice).unwrap_or_default();
            let sizes: Vec<usize> =
                rows.iter().filter_map(|row| row["inside"].as_array()).map(Vec::len).collect();
            if sizes == [count; FRONTENDS] { Ok(()) } else { Err(format!("{sizes:?}")) }
        })
    }

    /// What `switchboard get services` prints.
    pub(crate) fn services(&self) -> anyhow::Result<String> {
        let output = Tool::new(self.lab.node("node1")).run_on_pins(&["get", "services"])?;
        if output.code != Some(0) {
            bail!("`switchboard get services` failed: {}", output.stderr.trim());
        }
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Leaves everything up: servers go on as processes, the agent as it is.
    pub(crate) fn keep(mut self) -> anyhow::Result<()> {
        self.servers.clear();
        let own = std::env::current_exe().context("finding the demo's own path")?;
        for name in PODS {
            let mut server = self.lab.pod(name).netns.command(&own);
            server.arg("--serve").arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            server.spawn().with_context(|| format!("starting the server of pod {name}"))?;
        }
        if let Some(agent) = self.agent.take() {
            agent.let_go();
        }
        self.lab.keep();
        let node = self.lab.node("node1");
        let (pins, host) = (node.pin_folder.display(), node.netns.path().display().to_string());
        let client = self.lab.pod("client").netns.path().display().to_string();
        println!("the lab stays up until the next one is built; try:");
        println!("  nsenter --net={client} bash -c 'exec 3<>/dev/tcp/10.96.0.10/80; head -1 <&3'");
        for what in ["services", "backends", "frontends", "flows"] {
            println!("  target/debug/switchboard get {what} --pin-dir {pins}");
        }
        println!("  $EDITOR {}/endpoints.yaml", self.folder.display());
        println!("  tail -f {}", node.log_file.display());
        println!("  nsenter --net={host} tcpdump -ni any port 8080");
        std::mem::take(&mut self.folder);
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            let _gone_already = fs::remove_dir_all(&self.folder);
        }
    }
}

fn copy_manifests(to: &Path) -> anyhow::Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(&from).with_context(|| format!("listing {}", from.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let target = to.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
