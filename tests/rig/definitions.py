"""Users, their rights and limits, and a queue that is soon full: RabbitMQ's definitions file.

A node loads it when it boots. To set all that by rabbitmqctl takes two seconds a command.
"""

import json
import re

from rig.scripts import ROOT

# The README's permissions: what a user may configure, write and read.
DOCUMENTED = re.search(
    "configure `(.*?)`, write `(.*?)`, read `(.*?)`", (ROOT / "README.md").read_text(encoding="utf-8")
)
assert DOCUMENTED
ALL, NONE = ".*", "^$"
RIGHTS = {
    "guest": (ALL, ALL, ALL),
    "documented": DOCUMENTED.groups(),
    "nobody": (NONE, NONE, NONE),
    "declarer": (ALL, NONE, NONE),
    "one-connection": (ALL, ALL, ALL),
    "two-channels": (ALL, ALL, ALL),
}
LIMITS = {"one-connection": {"max-connections": 1}, "two-channels": {"max-channels": 2}}


def definitions() -> str:
    """Return the file's text. The password of all but guest is s3cret."""
    users = [
        {"name": user, "password": "s3cret", "tags": "", "limits": LIMITS.get(user, {})} for user in RIGHTS
    ]
    users[0]["password"] = "guest"
    permissions = [
        {"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read}
        for user, (configure, write, read) in RIGHTS.items()
        for vhost in (["/", "short"] if user == "guest" else ["/"])
    ]
    policy = {"vhost": "short", "name": "short", "pattern": "^orders$", "priority": 0}
    policy |= {"apply-to": "queues", "definition": {"max-length": 200}}
    vhosts = [{"name": "/"}, {"name": "short"}]
    return json.dumps({"users": users, "vhosts": vhosts, "permissions": permissions, "policies": [policy]})
