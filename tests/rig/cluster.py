"""Three RabbitMQ nodes that form a cluster."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.broker import Broker
from rig.network import Network


class Cluster:
    """Three RabbitMQ nodes on this machine, all of their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folders = [folder / "node1", folder / "node2", folder / "node3"]
        self.nodes = [Broker(each) for each in folders]
        config = "cluster_formation.peer_discovery_backend = classic_config\n"
        for number, node in enumerate(self.nodes, 1):
            config += f"cluster_formation.classic_config.nodes.{number} = {node.node_name}\n"
        for each in folders:
            (each / "rabbitmq.conf").write_text(config)
            cookie = each / ".erlang.cookie"
            cookie.write_text("ORDERS")
            cookie.chmod(0o400)

    def balancer(self, *first: Broker) -> Network:
        """Return what leads to the first node that answers, these ones before the others."""
        others = [node for node in self.nodes if node not in first]
        return Network(*(node.port for node in [*first, *others]))

    def start(self) -> None:
        """Start the nodes that do not run, at once: the first start waits for all."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Broker.start, [node for node in self.nodes if not node.running()]))

    def leader(self) -> Broker:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitctl_output("-s", "list_queues", "name", "leader")
        rows = dict(line.split() for line in table.splitlines())
        return next(node for node in self.nodes if node.node_name == rows["orders"])

    def kill(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            node.kill()
