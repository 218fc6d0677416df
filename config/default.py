"""What every kind of deployment shares."""


class Default:
    MAX_CONTENT_LENGTH = 1_000_000  # bytes of an HTTP request's body
    SESSION_COOKIE_HTTPONLY = True
    SESSION_COOKIE_SAMESITE = "Lax"
