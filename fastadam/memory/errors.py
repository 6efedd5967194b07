"""The error of both memory and backends: what was asked for cannot be used here."""


class BackendUnavailableError(RuntimeError):
    """The backend asked for by name cannot be used here; the message says why and what to do."""


BackendUnavailableError.__module__ = "fastadam"  # where it is public, whatever file it is in
