"""Licences by the identifiers that the Hugging Face Hub has for them. Free of torch, as the command line checks by it.

lptool claims none: a model's licence is its author's to give.
"""

from __future__ import annotations

import re

from lptool.errors import HubError, near_miss

# Source: https://huggingface.co/docs/hub/repositories-licenses; newer ones may lack, so another word is no error.
_KNOWN = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
"""
LICENSES = tuple(_KNOWN.split())
_WHERE = "https://huggingface.co/docs/hub/repositories-licenses"


def license_id(text: str) -> str:
    """The identifier as the Hub spells it, in small letters.

    Raises:
        HubError: what cannot be one, such as the text of a licence.

    >>> license_id("Apache-2.0")
    'apache-2.0'
    """
    found = text.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", found):
        raise HubError(
            f"expected an identifier such as mit or apache-2.0, found {text[:60]!r}; see {_WHERE}", "license"
        )
    return found


def license_notes(license: str | None) -> list[str]:
    """A line where the Hub may want more than this identifier, or does not know it."""
    if license == "other":
        return ["--license other: the Hub asks for its license_name and license_link too; add them to README.md"]
    if license is None or license in LICENSES:
        return []
    return [
        f"--license {license}: lptool does not know it as one of the Hub's.{near_miss(license, LICENSES)} See {_WHERE}"
    ]
