"""Where Forebay ran a statement."""


def ran_on(client):
    """Name of the node where the last statement of a raw connection ran, without the service."""
    return client.value("show forebay.node").split(".")[-1]


def inside_a_read(client):
    """Begins a read-only transaction and answers the name of the node that it runs on."""
    client.run("begin read only")
    client.run("select 1")
    return ran_on(client)


def role(client):
    """The role of that node in a cluster whose primary is `pg1`."""
    return "primary" if ran_on(client) == "pg1" else "replica"


def role_after(client, *frames):
    """Runs frames and answers the role of the node that ran them."""
    client.ask(*frames)
    return role(client)


def route(forebay, statement):
    """The row of EXPLAIN ROUTE for a statement."""
    return forebay.admin(f"EXPLAIN ROUTE {statement}")[0]
