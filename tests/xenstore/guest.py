"""The guest's side of a xenstore ring page, for tests."""

from xenfast.abi.io import xs_wire as xs
from xenfast.abi.io.xs_wire import XsdSockmsgType as T
from xenfast.xenstore.wire import Message, Parser


class Guest:
    """A domain that talks to xenstored through its page, `chunk` bytes at a time."""

    def __init__(self, hypervisor, store, domid: int = 1, chunk: int = 1024) -> None:
        self.hypervisor, self.store, self.chunk = hypervisor, store, chunk
        self.domain = hypervisor.domains.get(domid) or hypervisor.create_domain("guest", vcpus=0)
        self.mfn = int(self.domain.alloc_pages(1)[0])
        self.page = hypervisor.memory.view(self.mfn)
        self.words = self.page[xs.INDEX_OFFSET : xs.INDEX_OFFSET + 28].cast("I")
        self.port = self.domain.evtchn.alloc_unbound(0)
        self.parser = Parser()
        self.inbox: list[Message] = []
        self.req_id = 0
        home = f"/local/domain/{domid}"
        client = store.client("toolstack")
        client.mkdir(home)
        client.set_perms(home, [f"n{domid}"])
        store.introduce(self.domain, self.mfn, self.port)

    def send_bytes(self, data: bytes) -> None:
        """Produce raw bytes, letting xenstored and ourselves drain the rings between the pieces."""
        while data:
            prod, cons = self.words[xs.REQ_PROD], self.words[xs.REQ_CONS]
            piece = data[: min(self.chunk, xs.XENSTORE_RING_SIZE - (prod - cons & 0xFFFFFFFF))]
            for i, byte in enumerate(piece):
                self.page[(prod + i) % xs.XENSTORE_RING_SIZE] = byte
            self.words[xs.REQ_PROD] = (prod + len(piece)) & 0xFFFFFFFF
            data = data[len(piece) :]
            self.notify()
            if not piece:
                return

    def notify(self) -> None:
        self.domain.evtchn.send(self.port)
        self.hypervisor.loop.run_ready()
        while self.receive():
            self.domain.evtchn.send(self.port)
            self.hypervisor.loop.run_ready()

    def receive(self) -> bool:
        cons, prod = self.words[xs.RSP_CONS], self.words[xs.RSP_PROD]
        if self.words[xs.RING_ERROR]:
            return False
        where = range(cons, cons + (prod - cons & 0xFFFFFFFF))
        data = bytes(self.page[xs.RSP_OFFSET + i % xs.XENSTORE_RING_SIZE] for i in where)
        self.words[xs.RSP_CONS] = prod
        self.inbox += self.parser.feed(data)
        return bool(data)

    def ask(self, kind: int, payload: bytes = b"", tx: int = 0) -> bytes:
        """The reply's payload; AssertionError with the error's name if it is one."""
        reply = self.request(kind, payload, tx)
        assert reply.type == kind, reply.payload.rstrip(b"\0").decode()
        return reply.payload

    def request(self, kind: int, payload: bytes = b"", tx: int = 0) -> Message:
        self.req_id += 1
        self.send_bytes(Message(kind, self.req_id, tx, payload).pack())
        (reply,) = [each for each in self.inbox if each.req_id == self.req_id and each.type != T.WATCH_EVENT]
        self.inbox.remove(reply)
        assert reply.tx_id == tx
        return reply

    def error(self, kind: int, payload: bytes = b"", tx: int = 0) -> str:
        reply = self.request(kind, payload, tx)
        assert reply.type == T.ERROR
        return reply.payload.rstrip(b"\0").decode()

    def events(self) -> list[tuple[str, str]]:
        """The watch events that have arrived since the last call."""
        self.hypervisor.loop.run_ready()
        self.receive()
        found = [each for each in self.inbox if each.type == T.WATCH_EVENT]
        self.inbox = [each for each in self.inbox if each.type != T.WATCH_EVENT]
        return [tuple(each.payload.decode().split("\0")[:2]) for each in found]
