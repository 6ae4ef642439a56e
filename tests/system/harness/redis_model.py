"""What Redis must answer a client whose keys nobody else touches: random pipelines and the replies expected of them."""

from harness.redis_wire import ReplyError

_NOT_A_NUMBER = ReplyError("ERR value is not an integer or out of range")
_WRONG_TYPE = ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")


class Client:
    """One client's commands and, kept in step with them, its data. `mark` sets its keys and values apart."""

    def __init__(self, mark, chance, databases=(0,), transactions=True, large=0):
        self.mark, self.chance = mark, chance
        self.databases, self.transactions, self.large = databases, transactions, large
        self.data = {database: {} for database in databases}
        self.database = 0
        self._number = 0

    def pipeline(self, length):
        """(commands, replies) of about `length` commands, which end outside a transaction."""
        commands, replies = [], []
        while len(commands) < length:
            if self.transactions and self.chance.random() < 0.08:
                block = [self._command() for _ in range(self.chance.randrange(6))]
                commands += [("MULTI",), *(command for command, _ in block), ("EXEC",)]
                replies += [b"OK", *[b"QUEUED"] * len(block), [reply for _, reply in block]]
            else:
                command, reply = self._command()
                commands.append(command)
                replies.append(reply)
        return commands, replies

    def _command(self):
        self._number += 1
        kinds = [
            self._set, self._get, self._get, self._incr, self._append, self._push, self._range, self._echo, self._delete]
        if len(self.databases) > 1:
            kinds.append(self._select)
        return self.chance.choice(kinds)()

    @property
    def _keys(self):
        return self.data[self.database]

    def _key(self):
        return f"{self.mark}:k{self.chance.randrange(6)}"

    def _value(self):
        size = self.large if self.large and self.chance.random() < 0.02 else self.chance.randrange(40)
        return f"{self.mark}-{self._number}-".encode() + b"v" * size

    def _set(self):
        key, value = self._key(), self._value()
        self._keys[key] = value
        return ("SET", key, value), b"OK"

    def _get(self):
        key = self._key() + self.chance.choice(["", "", "", ":n", ":l"])
        value = self._keys.get(key)
        return ("GET", key), _WRONG_TYPE if isinstance(value, list) else value

    def _incr(self):
        key = self._key() + self.chance.choice(["", ":n", ":n", ":n"])
        value = self._keys.get(key, b"0")
        if isinstance(value, list):
            return ("INCR", key), _WRONG_TYPE
        if not value.isdigit():
            return ("INCR", key), _NOT_A_NUMBER
        self._keys[key] = b"%d" % (int(value) + 1)
        return ("INCR", key), int(value) + 1

    def _append(self):
        key, value = self._key(), self._value()
        before = self._keys.get(key, b"")
        if isinstance(before, list):
            return ("APPEND", key, value), _WRONG_TYPE
        if len(before) > 10_000:
            return self._set()
        self._keys[key] = before + value
        return ("APPEND", key, value), len(before + value)

    def _push(self):
        key, value = self._key() + ":l", self._value()
        items = self._keys.setdefault(key, [])
        if len(items) >= 50:
            del self._keys[key]
            return ("DEL", key), 1
        items.append(value)
        return ("RPUSH", key, value), len(items)

    def _range(self):
        key = self._key() + ":l"
        return ("LRANGE", key, 0, -1), list(self._keys.get(key, []))

    def _echo(self):
        value = self._value()
        return ("ECHO", value), value

    def _delete(self):
        key = self._key()
        return ("DEL", key), int(self._keys.pop(key, None) is not None)

    def _select(self):
        self.database = self.chance.choice(self.databases)
        return ("SELECT", self.database), b"OK"


def check(wire, commands, expected, who):
    """Sends a pipeline and fails at the first reply that is not the expected one."""
    found = wire.pipeline(*commands)
    for number, (command, wanted, got) in enumerate(zip(commands, expected, found, strict=True)):
        assert got == wanted, (
            f"{who}, command {number} of {len(commands)}, {str(command)[:200]}: expected {str(wanted)[:200]},"
            f" got {str(got)[:200]}")
