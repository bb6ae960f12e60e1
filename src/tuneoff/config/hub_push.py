"""The check of `push`: what can be seen to be wrong with an upload before anything is trained."""

from tuneoff.config.options import ConfigError
from tuneoff.config.paths import is_hub_name


def check_push(push: str, save_model: bool) -> None:
    """Refuse to push what is not saved, to what is no name, without a token, or offline.

    Raises:
        ConfigError: with what helps.
    """
    if not is_hub_name(push):
        raise ConfigError("push", push, "must be a name on the hub, owner/name")
    if not save_model:
        raise ConfigError("push", push, "needs save_model=true, since what is saved is uploaded")
    # Takes a tenth of a second, which nobody pays who pushes nothing.
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise ConfigError("push", push, "needs the hub, and HF_HUB_OFFLINE is set")
    if not get_token():
        raise ConfigError("push", push, "needs a token in HF_TOKEN, or by `hf auth login`")
