"""What `make run` starts: a demo backend, and Envoy, Keytoll and that backend as one stack that tests share."""
