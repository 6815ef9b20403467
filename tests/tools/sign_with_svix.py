#!/usr/bin/env python3
"""Signs with the official `svix` package and asks tenantry for its verdict.

Not needed to build or run tenantry: it shows that what Clerk's sender signs is accepted, and what was
changed is not. `pip install svix`, then:

    tests/tools/sign_with_svix.py target/debug/tenantry
"""

import datetime
import pathlib
import subprocess
import sys
import tempfile

from svix.webhooks import Webhook, WebhookVerificationError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODIES = pathlib.Path(__file__).parent.parent / "fixtures/webhooks/clerk"


def verdict(tenantry, kind, body, headers, secrets):
    """Whether `tenantry webhook verify` accepts the delivery."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body.encode())
        file.flush()
        command = [tenantry, "webhook", "verify", "--source", kind, "--body-file", file.name]
        for secret in secrets:
            command += ["--secret", secret]
        for name, value in headers.items():
            command += ["--header", f"{name}: {value}"]
        return subprocess.run(command, capture_output=True).returncode == 0


def signed_here(tenantry, kind, body, secrets):
    """The headers that `tenantry webhook sign` makes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body.encode())
        file.flush()
        command = [tenantry, "webhook", "sign", "--source", kind, "--body-file", file.name]
        for secret in secrets:
            command += ["--secret", secret]
        lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return dict(line.split(": ", 1) for line in lines.splitlines())


def main():
    tenantry = sys.argv[1]
    now = datetime.datetime.now(datetime.timezone.utc)
    wrong = tried = 0

    def expect(what, found, expected):
        nonlocal wrong, tried
        tried += 1
        if found != expected:
            wrong += 1
            print(f"{what}: {'accepted' if found else 'refused'}")

    for number, path in enumerate(sorted(BODIES.glob("*.json"))):
        body, id = path.read_text(), f"msg_{number}"
        signature = Webhook(SECRET).sign(id, now, body)
        stale = now - datetime.timedelta(seconds=330)
        for kind in ("clerk", "standard"):
            for prefix in ("svix", "webhook"):
                def headers(signature=signature, id=id, at=now):
                    values = {"id": id, "timestamp": str(int(at.timestamp())), "signature": signature}
                    return {f"{prefix}-{name}": value for name, value in values.items()}

                def try_it(what, expected, headers, body=body, secrets=(SECRET,)):
                    what = f"{path.name} {kind} {prefix} {what}"
                    expect(what, verdict(tenantry, kind, body, headers, secrets), expected)

                try_it("as signed", True, headers())
                try_it("two secrets", True, headers(), secrets=(OTHER, SECRET))
                try_it("two signatures", True, headers(f"v1,{'A' * 43}= {signature}"))
                try_it("another secret", False, headers(), secrets=(OTHER,))
                try_it("another id", False, headers(id=f"{id}0"))
                try_it("another body", False, headers(), body=body + " ")
                try_it("too old", False, headers(Webhook(SECRET).sign(id, stale, body), at=stale))

            for secrets in ((SECRET,), (OTHER, SECRET)):
                made = signed_here(tenantry, kind, body, secrets)
                try:
                    Webhook(SECRET).verify(body, made)
                    accepted = True
                except WebhookVerificationError:
                    accepted = False
                expect(f"{path.name} {kind} signed here, read there", accepted, True)
    print(f"{tried - wrong} of {tried} as expected")
    sys.exit(1 if wrong or tried < 100 else 0)


if __name__ == "__main__":
    main()
