"""Prints a token of a custom issuer: sign_token.py ISSUER SECRET USER ORGANIZATION"""

import base64
import hmac
import json
import sys
import time


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


issuer, secret, user, organization = sys.argv[1:]
now = int(time.time())
claims = {"iss": issuer, "sub": user, "org_id": organization, "iat": now, "exp": now + 3600}
parts = ({"alg": "HS256", "typ": "JWT"}, claims)
signed = ".".join(text(json.dumps(part).encode()) for part in parts)
print(f"{signed}.{text(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}")
