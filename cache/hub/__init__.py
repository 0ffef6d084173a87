"""Models on the Hub: pin, list, read ranges, download. The only room that knows huggingface_hub.

A revision is resolved once, to a commit; from then on only the commit is asked for. The Hub is asked before anything
comes from its cache on this machine, because a cached file is no proof that it may still be read.
"""

import cache.hub.environment  # noqa: F401 (before huggingface_hub)
from cache.hub.downloads import bytes_to_fetch, fetch
from cache.hub.listing import revisions, subfolders
from cache.hub.lookup import find, suggest_base
from cache.hub.ranges import read_range

__all__ = ["bytes_to_fetch", "fetch", "find", "read_range", "revisions", "subfolders", "suggest_base"]
