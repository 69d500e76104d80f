"""Event classes as an application declares them for GMFY's client."""
