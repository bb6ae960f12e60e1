"""Access to the hub: quiet, offline where it cannot be reached, and with errors that say what to do."""

import logging
from collections.abc import Iterator
from functools import cache

log = logging.getLogger(__name__)
PROBE_SECONDS = 5.0
# The HTTP client logs each request, huggingface_hub each retry; what counts of it we tell ourselves.
LOUD_LOGGERS = ("httpx", "httpx2", "huggingface_hub")
USE_A_COPY = "a copy on this machine is read where its file or folder is given instead"


@cache
def prepare_hub() -> None:
    """Silence the hub's clients, and use what is cached where the hub cannot be reached.

    Without this, each of the dozens of requests of a start is retried five times. One short
    request answers for all of them; it is made once a process, before the first use of the hub.
    """
    for name in LOUD_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from huggingface_hub import constants

    if constants.is_offline_mode() or is_hub_reachable():
        return
    log.warning(
        "the hub (%s) cannot be reached: models and data come from the cache alone",
        constants.ENDPOINT,
    )
    import datasets

    constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def is_hub_reachable() -> bool:
    """Return whether anything answers at the hub's address, by way of a proxy if there is one."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # the client's own types differ between its versions
        log.debug("%s: %s", constants.ENDPOINT, error)
        return False
    return True


def explain_hub_error(error: BaseException, name: str) -> str | None:
    """Return what the hub has against giving a model or a set, and what helps; None for another error.

    Args:
        error: what was raised, with the errors it comes from.
        name: owner/name of the repository.
    """
    from huggingface_hub import constants

    for cause in iterate_causes(error):
        kind = type(cause).__name__
        text = str(cause)
        if kind == "GatedRepoError" or "gated dataset" in text:
            return explain_gate(name)
        if kind == "RevisionNotFoundError":
            return f"{constants.ENDPOINT} has no such revision of {name}"
        if kind in ("RepositoryNotFoundError", "DatasetNotFoundError"):
            return f"{constants.ENDPOINT} has no {name}, or it is private and needs a token in HF_TOKEN"
        if kind in ("RemoteProtocolError", "ReadError", "IncompleteRead"):
            return "the download was cut off; the same command goes on with it"
        if kind == "HfHubHTTPError" and " for url" in text:
            return f"{constants.ENDPOINT} fails: {text.partition(' for url')[0]}; {USE_A_COPY}"
    causes = [type(cause).__name__ for cause in iterate_causes(error)]
    if "LocalEntryNotFoundError" in causes or "OfflineModeIsEnabled" in causes:
        return explain_offline(name)
    return None


def explain_gate(name: str) -> str:
    """Return what a gated repository asks for."""
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{name}"
    if get_token():
        return f"is gated, and this token has no access; ask for it at {page}"
    return f"is gated: ask for access at {page}, and give a token in HF_TOKEN or by `hf auth login`"


def explain_offline(name: str) -> str:
    """Return that a repository is neither cached nor to be had."""
    from huggingface_hub import constants

    return (
        f"{name} is not in the cache, and {constants.ENDPOINT} cannot be reached "
        f"(or HF_HUB_OFFLINE is set); {USE_A_COPY}"
    )


def iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it comes from, at most 20 deep."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
