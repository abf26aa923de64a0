"""Users, their rights, and a queue that is soon full: RabbitMQ's definitions file.

A node loads it when it boots. To set all that by rabbitmqctl takes two seconds a command.
"""

import json

ALL, NONE = ".*", "^$"
# What the README says that a user may configure, write and read.
DOCUMENTED = (r"^orders(\.dead)?$", r"^amq\.default$", "^orders$")
RIGHTS = {"guest": (ALL, ALL, ALL), "documented": DOCUMENTED, "nobody": (NONE, NONE, NONE)}


def definitions() -> str:
    """Return the file's text. The password of all but guest is s3cret."""
    users = [{"name": user, "password": "s3cret", "tags": ""} for user in RIGHTS]
    users[0]["password"] = "guest"
    permissions = [
        {"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read}
        for user, (configure, write, read) in RIGHTS.items()
        for vhost in ("/", "short")
    ]
    policy = {"vhost": "short", "name": "short", "pattern": "^orders$", "priority": 0}
    policy |= {"apply-to": "queues", "definition": {"max-length": 200}}
    everything = {"users": users, "permissions": permissions, "policies": [policy]}
    return json.dumps({**everything, "vhosts": [{"name": "/"}, {"name": "short"}]})
