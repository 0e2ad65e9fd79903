"""Layers of pure ASGI between the crash guard and the routes."""
