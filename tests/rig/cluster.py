"""Three RabbitMQ nodes that form a cluster."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.broker import Broker, free_ports, server_program, wait_until
from rig.network import Network


class Cluster:
    """Three RabbitMQ nodes on this machine, all of their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        # A node that starts an epmd takes it along when it is killed; these share one.
        environment = {"ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        self.nodes = [Broker(folder / f"node{number}", "", **environment) for number in (1, 2, 3)]
        peers = [node.node_name for node in self.nodes]
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [
            f"cluster_formation.classic_config.nodes.{n} = {peer}"
            for n, peer in enumerate(peers, 1)
        ]
        for number in (1, 2, 3):
            (folder / f"node{number}" / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
            cookie = folder / f"node{number}" / ".erlang.cookie"
            cookie.write_text("ORDERS")
            cookie.chmod(0o400)
        self._epmd = subprocess.Popen([server_program("epmd")], env={**os.environ, **environment})

    def balancer(self, *first: Broker) -> Network:
        """Return what leads to the first node that answers, these ones before the others."""
        others = [node for node in self.nodes if node not in first]
        return Network(*(node.port for node in [*first, *others]))

    def start(self) -> "Cluster":
        """Start the nodes that do not run, at once: the first start waits for all."""
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda node: node.start(), [n for n in self.nodes if not n.running()]))
        wait_until(
            lambda: all(node.is_alive() for node in self.nodes), "three nodes that let clients in"
        )
        return self

    def leader(self) -> Broker:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitctl_output(
            "-q", "list_queues", "--no-table-headers", "name", "leader"
        )
        rows = dict(line.split() for line in table.splitlines())
        return next(n for n in self.nodes if n.node_name == rows["orders"])

    def kill(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            node.kill()
        self._epmd.kill()
        self._epmd.wait()
