"""gRPC to Envoy over libnghttp2: Check and health on one UNIX socket, at a tenth of what grpcio costs a call.

From the bytes inward: `connection` keeps one HTTP/2 connection, `calls` judges what a peer asks for, `wire` knows gRPC's
own bytes, `limits` says what a peer may take, `health` is the health service, and `server` listens.
"""
