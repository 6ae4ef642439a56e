"""Clients in threads of their own."""

import threading


class Writers:
    """Clients that each do `work`, with their number, in a thread of their own until stopped."""

    def __init__(self, clients):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def work(self, client):
        """Ends once `self._stop` is set."""
        raise NotImplementedError

    def stop(self):
        """Tells all to end, and waits until they have."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
