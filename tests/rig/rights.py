"""What the shared node loads when it boots: by rabbitmqctl it takes two seconds a line."""

# What the README says that a user has to be allowed.
RIGHTS = {"configure": r"^orders(\.dead)?$", "write": r"^amq\.default$", "read": "^orders$"}
ALL = dict.fromkeys(RIGHTS, ".*")
FULL_AT_200 = {"pattern": "^orders$", "apply-to": "queues", "definition": {"max-length": 200}}
DEFINITIONS = {
    "users": [
        {"name": "guest", "password": "guest", "tags": ""},
        {"name": "documented", "password": "s3cret", "tags": ""},
    ],
    "vhosts": [{"name": "/"}, {"name": "short"}],
    "permissions": [
        {"user": "guest", "vhost": "/", **ALL},
        {"user": "guest", "vhost": "short", **ALL},
        {"user": "documented", "vhost": "/", **RIGHTS},
    ],
    "policies": [{"vhost": "short", "name": "short", "priority": 0, **FULL_AT_200}],
}
