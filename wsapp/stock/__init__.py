"""What users of Flask-SocketIO expect beside the wire: its options, `run()`, its test client."""
