"""Flask config objects: `app.config.from_object("config.production.Production")`.

A setting of wsapp that stands in `app.config` wins over the environment, so these hold only what belongs to a kind
of deployment; what differs between machines stays in the environment (`wsapp config` prints it).
"""
