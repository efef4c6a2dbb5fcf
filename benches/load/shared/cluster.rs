//! A small cluster whose slots move while it is asked.

use anyhow::{Context, ensure};

use super::redis::Redis;
use crate::contenders::{Bench, START_DEADLINE};
use crate::process::{free_addresses, poll_until};

/// Each node's slots at first.
const SLOTS: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
/// Keys that are moved at a time.
const BATCH: &str = "100";

/// Three primaries.
pub(crate) struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) fn start(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let buses = free_addresses::<3>()?.map(|bus| bus.port().to_string());
        let mut nodes = Vec::new();
        for (index, (bus, (first, last))) in buses.iter().zip(SLOTS).enumerate() {
            let name = format!("node-{index}");
            let file = format!("{name}.conf");
            let options =
                ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-config-file"];
            let node = Redis::start(bench, &name, &[&options[..], &[&file]].concat())?;
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last])?;
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            nodes.push(node);
        }
        let first = nodes.first().context("no nodes")?;
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let port = node.address.port().to_string();
            first.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
        }
        let cluster = Self { nodes };
        poll_until(START_DEADLINE, || cluster.check_whole())?;
        Ok(cluster)
    }

    fn check_whole(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let state: String = node.ask(&["CLUSTER", "INFO"])?;
            let is_whole =
                state.contains("cluster_state:ok") && state.contains("cluster_known_nodes:3");
            ensure!(is_whole, "the cluster is not whole: {state}");
        }
        Ok(())
    }

    /// As a list in a configuration.
    pub(crate) fn urls(&self) -> String {
        let url = |node: &Redis| format!("\"redis://{}\"", node.address);
        format!("[{}]", self.nodes.iter().map(url).collect::<Vec<_>>().join(", "))
    }

    /// Moves the slot of every bucket to the next node.
    pub(crate) fn move_buckets(&self) -> anyhow::Result<()> {
        let mut moves = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for key in node.ask::<Vec<String>>(&["KEYS", "*limit*"])? {
                let slot: u16 = node.ask(&["CLUSTER", "KEYSLOT", &key])?;
                moves.push((slot, index));
            }
        }
        ensure!(!moves.is_empty(), "there are no buckets");
        moves.sort_unstable();
        moves.dedup();
        let next = |index: usize| (index + 1) % self.nodes.len();
        moves.iter().try_for_each(|(slot, from)| {
            self.move_slot(*slot, &self.nodes[*from], &self.nodes[next(*from)])
        })
    }

    fn move_slot(&self, slot: u16, from: &Redis, to: &Redis) -> anyhow::Result<()> {
        let (source, target): (String, String) =
            (from.ask(&["CLUSTER", "MYID"])?, to.ask(&["CLUSTER", "MYID"])?);
        let (slot, port) = (slot.to_string(), to.address.port().to_string());
        to.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source])?;
        from.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target])?;
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, BATCH])?;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                from.ask::<String>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"])?;
            }
        }
        for node in [to, from] {
            node.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target])?;
        }
        Ok(())
    }
}
