"""Environment variables of other programs that are read too. docs/environment.md lists them apart."""

from typing import Final

from runai_model_streamer.settings import parsers
from runai_model_streamer.settings.setting import Setting

CA_BUNDLE: Final = Setting("REQUESTS_CA_BUNDLE", "s3.ca_bundle", parsers.text("a file's path"), "none", "")
"""A variable of other programs. The page lists it with boto3's."""

NETRC: Final = Setting("NETRC", "web.netrc", parsers.text("a file's path"), "none", "")
"""A variable of curl and other programs."""

GCS: Final = (
    Setting("GCS_CREDENTIAL_FILE", "gcs.credential_file", parsers.text("a file's path"), "none", ""),
    Setting("STORAGE_EMULATOR_HOST", "gcs.emulator", parsers.text("URL"), "none", ""),
)
"""Variables that other clients of Google Cloud Storage read, too."""

HUB: Final = (
    Setting("HF_ENDPOINT", "hub.endpoint", parsers.text("URL"), "none", ""),
    Setting("HF_HUB_CACHE", "hub.cache", parsers.text("a folder's path"), "none", ""),
    Setting("HF_HUB_OFFLINE", "hub.offline", parsers.flag(), "`0`", ""),
)
"""Variables of huggingface_hub, which reads them once in a process; here they are read for each load."""

AZURE: Final = (
    Setting(
        "AZURE_STORAGE_CONNECTION_STRING", "azure.connection_string", parsers.text("text"), "none", "", secret=True
    ),
    Setting("AZURE_STORAGE_ACCOUNT_NAME", "azure.account", parsers.text("a name"), "none", ""),
    Setting("AZURE_STORAGE_ACCOUNT", "azure.account", parsers.text("a name"), "none", ""),
    Setting("AZURE_STORAGE_ACCOUNT_KEY", "azure.key", parsers.text("text"), "none", "", secret=True),
    Setting("AZURE_STORAGE_KEY", "azure.key", parsers.text("text"), "none", "", secret=True),
    Setting("AZURE_STORAGE_SAS_TOKEN", "azure.sas", parsers.text("text"), "none", "", secret=True),
    Setting("AZURE_STORAGE_ENDPOINT", "azure.endpoint", parsers.text("URL"), "none", ""),
    Setting("AZURE_STORAGE_ENDPOINT_SUFFIX", "azure.endpoint_suffix", parsers.text("a domain"), "none", ""),
    Setting("AZURE_STORAGE_ANON", "azure.anonymous", parsers.flag(), "`0`", ""),
)
"""Variables of Azure's command line and of other clients of its storage."""

OTHERS: Final = (CA_BUNDLE, NETRC, *HUB, *GCS, *AZURE)
