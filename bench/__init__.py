"""The bench: how much the mesh carries and how soon, beside mosquitto and nats-server. Run ``python -m bench``."""
