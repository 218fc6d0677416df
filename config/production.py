"""Behind a proxy that speaks TLS."""

from config.default import Default


class Production(Default):
    PREFERRED_URL_SCHEME = "https"
    SESSION_COOKIE_SECURE = True
