#!/usr/bin/env python3
"""protocol_test.py - backplane/PROTOCOL.md, read by somebody who has only that page.

    protocol_test.py                      check the page's test vectors
    protocol_test.py --print-vectors      print them as the page should have them
    protocol_test.py --socket S --name N --keyring F --expect-key KEY --expect-value VALUE
                                          ... and then listen to a live cache: subscribe, print READY, wait for
                                          the frame that names KEY, verify and decode it, find it in the log, and
                                          open the sealed record of KEY, which must hold VALUE

No code of the library's is used: SipHash is written out below, Ed25519 and XChaCha20-Poly1305 come from PyNaCl, BLAKE2b
from the standard library, and Redis is spoken to over a plain socket.  Exit status 0: all as the
page says; 1: not; 2: bad usage.
"""
import argparse
import hashlib
import pathlib
import re
import socket
import struct
import sys
import time

from nacl import bindings, exceptions, signing

PAGE = pathlib.Path(__file__).resolve().parent.parent / "backplane" / "PROTOCOL.md"
FRAME_PREFIX = b"freshet frame 1\0"
SEAL_PREFIX = b"freshet seal 2\0"
KINDS = {1: "invalidate", 2: "put", 3: "clear", 4: "tags"}


class Wrong(Exception):
    """Something is not as the page says."""


def expect(condition, what):
    if not condition:
        raise Wrong(what)


# ---- section 1: names

def siphash128(key, data):
    """SipHash-2-4 with 16 bytes of output."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x, n):
        return ((x << n) | (x >> (64 - n))) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return struct.pack("<QQ", low, v[0] ^ v[1] ^ v[2] ^ v[3])


def space_key(name):
    return siphash128(bytes(range(16)), name)


def key_hash(name, key):
    return siphash128(space_key(name), key)


def tag_hash(name, tag):
    return siphash128(space_key(name + b"\0tag"), tag)


def namespace_hash(name, namespace):
    return siphash128(space_key(name + b"\0namespace"), namespace)


def partition_of(digest, partitions):
    return struct.unpack("<Q", digest[:8])[0] % partitions


def key_id(key):
    """Of a public key, and of a value key."""
    return hashlib.blake2b(key, digest_size=32).digest()[:8]


# ---- section 2: frames

def frame_encode(kind, partition, cache, version, writer, counter, source_version, hashes):
    return struct.pack(">BBH16sQQQQHH", 1, kind, partition, cache, version, writer, counter, source_version,
                       len(hashes), 0) + b"".join(hashes)


def frame_decode(body):
    expect(len(body) >= 56, "a frame's body has 56 bytes at least")
    form, kind, partition, cache, version, writer, counter, source_version, count, zero = struct.unpack(
        ">BBH16sQQQQHH", body[:56])
    expect(form == 1 and kind in KINDS and zero == 0, "format, kind and padding of a frame")
    expect((count == 0) == (kind == 3) and count <= 1024 and len(body) == 56 + 16 * count, "count and size of a frame")
    return {"kind": KINDS[kind], "partition": partition, "cache": cache, "version": version, "writer": writer,
            "counter": counter, "source_version": source_version,
            "hashes": [body[56 + 16 * i:72 + 16 * i] for i in range(count)]}


def verify(message, trusted):
    """The body of a signed message, or nacl's BadSignatureError."""
    expect(len(message) > 72, "a signed message has more than 72 bytes")
    expect(message[:8] in trusted, "a key that the keyring trusts")
    signing.VerifyKey(trusted[message[:8]]).verify(FRAME_PREFIX + message[72:], message[8:72])
    return message[72:]


# ---- sections 3 and 5: head, record, seal

def head_decode(head):
    expect(len(head) == 132 and head[:4] == b"FH\2\0", "magic, format and size of the head")
    epoch, replid, position, clear, _, max_staleness, partitions, zero, registry = struct.unpack(
        ">8s40sQQQIHH16s", head[4:100])
    expect(re.fullmatch(rb"[0-9a-f]{40}", replid) and zero == 0 and clear <= position < 1 << 53, "fields of the head")
    return {"epoch": epoch, "position": position, "clear": clear, "max_staleness": max_staleness,
            "partitions": partitions, "registry": registry}


def record_decode(record):
    expect(len(record) >= 100 and record[:3] == b"FR\2", "magic, format and size of the record")
    names = ["state", "born", "version", "writer", "source_version", "expiry", "changed", "seen", "ticket",
             "ticket_epoch", "ticket_position", "ticket_until"]
    fields = dict(zip(names, struct.unpack(">BQQQQQQQ16s8sQQ", record[3:100])))
    if fields["state"] == 0:
        expect((len(record) - 100) % 24 == 0 and len(record) <= 100 + 24 * 64, "whole guards, at most 64")
        fields["guards"] = [record[at:at + 24] for at in range(100, len(record), 24)]
        return fields
    count = record[100]
    expect(count <= 17 and len(record) >= 101 + 8 * count + 48, "at most 17 tags, and a sealed answer")
    fields["tags"] = [record[101 + 8 * i:109 + 8 * i] for i in range(count)]
    fields["sealed"] = record[101 + 8 * count:]
    return fields


def additional_data(kind, value_key_id, version, writer, source_version, expiry, cache, key, tags):
    fixed = struct.pack(">B8sQQQQ16sIB", kind, value_key_id, version, writer, source_version, expiry, cache, len(key),
                        len(tags))
    return SEAL_PREFIX + fixed + b"".join(tags) + key


def seal(value, ad, value_key, nonce):
    return key_id(value_key) + nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(value, ad, nonce, value_key)


def unseal(sealed, ad, value_key):
    return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[32:], ad, sealed[8:32], value_key)


# ---- section 6: the keyring

def keyring_read(path):
    lines = pathlib.Path(path).read_text(encoding="ascii").split("\n")
    expect(lines[0] == "freshet keyring 1", "the keyring's first line")
    trusted, values = {}, {}
    for line in lines[1:]:
        words = line.split("#")[0].split()
        if not words:
            continue
        expect(len(words) == 3, "three words in a keyring's line")
        word, ident, key = words[0], bytes.fromhex(words[1]), bytes.fromhex(words[2])
        if word == "sign":
            key = bytes(signing.SigningKey(key).verify_key)
        expect(key_id(key) == ident, "the id of a key")
        (values if word == "value" else trusted)[ident] = key
    return trusted, values


# ---- the page's vectors

def vectors():
    """All of them, from fixed seeds."""
    name, key = b"orders", b"customer:1"
    seed, value_key, nonce = bytes(range(32)), bytes(range(64, 96)), bytes(range(128, 152))
    cache, first, second = key_hash(name, name), key_hash(name, key), key_hash(name, b"customer:2")
    version, writer, position = 1750000000000000, 0x1122334455667788, 1750004294967297
    epoch, expiry = bytes.fromhex("a1b2c3d4e5f60718"), 1750000060000000
    sign = signing.SigningKey(seed)
    public = bytes(sign.verify_key)
    body = frame_encode(1, 0, cache, version, writer, 7, 42, [first, second])
    clear = frame_encode(3, 2, cache, version + 1, writer, 8, 0, [])

    def signed(bytes_):
        return key_id(public) + sign.sign(FRAME_PREFIX + bytes_).signature + bytes_

    value, tag, namespace = b"hello, freshet", b"region:eu", b"shop"
    tags = [tag_hash(name, tag)[:8], namespace_hash(name, namespace)[:8]]
    ad = additional_data(1, key_id(value_key), version, writer, 42, expiry, cache, key, tags)
    absent_ad = additional_data(2, key_id(value_key), version, writer, 0, 0, cache, key, [])
    sealed, absent = seal(value, ad, value_key, nonce), seal(b"", absent_ad, value_key, nonce)
    record = (b"FR\2\1" + struct.pack(">QQQQQQQ", position, version, writer, 42, expiry, version, 42)
              + bytes(40) + b"\2" + b"".join(tags) + sealed)
    head = (b"FH\2\0" + epoch + b"0123456789abcdef0123456789abcdef01234567"
            + struct.pack(">QQQIHH", position, position - 1, 0, 500, 1, 0) + bytes(range(16))
            + struct.pack(">QQQQ", position - 1, version, 0, version))
    return [
        ("name", name), ("key", key), ("space key", space_key(name)), ("cache hash", cache), ("key hash", first),
        ("partition of 16", struct.pack(">H", partition_of(first, 16))),
        ("tag", tag), ("tag hash", tag_hash(name, tag)),
        ("namespace", namespace), ("namespace hash", namespace_hash(name, namespace)),
        ("sign seed", seed), ("public key", public), ("key id", key_id(public)),
        ("body", body), ("signature", signed(body)[8:72]), ("signed message", signed(body)),
        ("channel message", struct.pack(">Q", position) + epoch + signed(body)),
        ("clear", signed(clear)),
        ("value key", value_key), ("value key id", key_id(value_key)), ("nonce", nonce), ("value", value),
        ("additional data", ad), ("sealed", sealed),
        ("absent additional data", absent_ad), ("absent sealed", absent),
        ("record", record), ("head", head),
    ]


def vectors_text():
    lines = []
    for name, data in vectors():
        digits = data.hex()
        pieces = [digits[i:i + 96] for i in range(0, len(digits), 96)]
        lines.append(f"{name} = " + pieces[0] if len(pieces) == 1 else f"{name} =")
        lines += ["  " + piece for piece in pieces] if len(pieces) > 1 else []
    return "\n".join(lines)


def check_page():
    found = re.search(r"^```vectors\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    expect(found, "a block of vectors in PROTOCOL.md")
    on_page, name = {}, None
    for line in found.group(1).split("\n"):
        if not line.startswith(" "):
            name, line = line.split(" =", 1)
            on_page[name] = ""
        on_page[name] += line.strip()
    computed = dict(vectors())
    expect(set(on_page) == set(computed), "the same vectors on the page as here")
    for name, data in computed.items():
        expect(bytes.fromhex(on_page[name]) == data, f"the vector '{name}'")
    public, ad = computed["public key"], computed["additional data"]
    verified = verify(computed["signed message"], {key_id(public): public})
    expect(verified == computed["body"], "a signed vector that verifies")
    expect(unseal(computed["sealed"], ad, computed["value key"]) == computed["value"], "a sealed vector that opens")
    # The reference implementation's own vector: key 00..0f, data 00..0e.
    expect(siphash128(bytes(range(16)), bytes(range(15))).hex() == "5493e99933b0a8117e08ec0f97cfc3d9", "SipHash itself")


# ---- Redis, plainly

class Redis:
    def __init__(self, path, deadline):
        self.socket = socket.socket(socket.AF_UNIX)
        self.deadline = deadline
        self.socket.connect(path)
        self.bytes = b""

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def _more(self):
        left = self.deadline - time.monotonic()
        expect(left > 0, "an answer in time")
        self.socket.settimeout(left)
        try:
            got = self.socket.recv(65536)
        except socket.timeout:
            raise Wrong("an answer in time") from None
        expect(got, "a connection that stays")
        self.bytes += got

    def _line(self):
        while b"\r\n" not in self.bytes:
            self._more()
        line, self.bytes = self.bytes.split(b"\r\n", 1)
        return line

    def reply(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        expect(kind != b"-", f"no error from Redis, but: {rest.decode(errors='replace')}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self.bytes) < size + 2:
                self._more()
            data, self.bytes = self.bytes[:size], self.bytes[size + 2:]
            return data
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest

    def ask(self, *words):
        self.send(*words)
        return self.reply()


# ---- a live cache

def await_frame(channel, trusted, name, digest):
    """The next frame that names the key: (position, epoch, signed message, frame)."""
    while True:
        kind, _, message = channel.reply()
        if kind != b"message":
            continue
        position, epoch = struct.unpack(">Q8s", message[:16])
        frame = frame_decode(verify(message[16:], trusted))
        expect(frame["cache"] == key_hash(name, name), "the cache hash in the frame")
        damaged = bytearray(message[16:])
        damaged[-1] ^= 1
        try:
            verify(bytes(damaged), trusted)
            raise Wrong("a frame with a flipped bit must not verify")
        except exceptions.BadSignatureError:
            pass
        if digest in frame["hashes"]:
            return position, epoch, message[16:], frame


def await_record(redis, record_key):
    """The key's live record; a fill may come a moment after the frame."""
    while True:
        record = redis.ask("GET", record_key)
        if record and record_decode(record)["state"] in (1, 2):
            return record_decode(record)
        expect(time.monotonic() < redis.deadline, "a live record in time")
        time.sleep(0.01)


def check_record(record, head, name, key, value, values):
    expect(record["state"] == (2 if value is None else 1), "the record's state")
    expect(head["clear"] <= record["born"] <= head["position"], "clear <= born <= position")
    expect(record["sealed"][:8] in values, "a value key that the keyring has")
    value_key = values[record["sealed"][:8]]
    parts = [record["state"], key_id(value_key), record["version"], record["writer"], record["source_version"],
             record["expiry"], key_hash(name, name), key, record["tags"]]
    expect(unseal(record["sealed"], additional_data(*parts), value_key) == (value or b""), "the value expected")
    parts[2] += 1
    try:
        unseal(record["sealed"], additional_data(*parts), value_key)
        raise Wrong("a record with another version must not open")
    except exceptions.CryptoError:
        pass


def check_live(options):
    name, key = options.name.encode(), options.expect_key.encode()
    value = None if options.expect_value is None else options.expect_value.encode()
    deadline = time.monotonic() + options.seconds
    trusted, values = keyring_read(options.keyring)
    digest = key_hash(name, key)
    prefix = f"freshet:{{{options.name}:{partition_of(digest, options.partitions)}}}:"
    channel, redis = Redis(options.socket, deadline), Redis(options.socket, deadline)
    expect(channel.ask("SUBSCRIBE", prefix + "frames")[0] == b"subscribe", "a subscription")
    print("READY", flush=True)

    position, epoch, message, frame = await_frame(channel, trusted, name, digest)
    expect(frame["partition"] == partition_of(digest, options.partitions), "the partition in the frame")
    expect(redis.ask("XRANGE", prefix + "log", position, position) == [[b"%d-0" % position, [b"f", message]]],
           "the same message in the log, under its position")
    record = await_record(redis, prefix + "record:" + digest.hex())
    head = head_decode(redis.ask("GET", prefix + "head"))
    expect(head["epoch"] == epoch and head["position"] >= position, "epoch and position in the head")
    expect(head["partitions"] == options.partitions, "partitions in the head")
    check_record(record, head, name, key, value, values)
    print(f"verified: {frame['kind']} at {position}, {len(frame['hashes'])} key(s); record of {options.expect_key}")


def main():
    parser = argparse.ArgumentParser(description="Check PROTOCOL.md, and a live cache against it.")
    parser.add_argument("--print-vectors", action="store_true")
    parser.add_argument("--socket")
    parser.add_argument("--name", default="default")
    parser.add_argument("--keyring")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--expect-key")
    parser.add_argument("--expect-value", help="left out: a known absence is expected")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    if options.print_vectors:
        print(vectors_text())
        return 0
    if options.socket and not (options.keyring and options.expect_key):
        parser.error("--socket needs --keyring and --expect-key")
    try:
        check_page()
        if options.socket:
            check_live(options)
    except (Wrong, OSError, ValueError, struct.error, exceptions.CryptoError) as error:
        what = f"expected {error}" if isinstance(error, Wrong) else repr(error)
        print(f"protocol_test: {what}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
