"""The names under which networks pickled by earlier versions know the hooks of a host."""

from saccade.parent_class import entering_hook as _entering
from saccade.parent_class import leaving_hook as _leaving
from saccade.surgery.attachment import close_call as _closing
from saccade.surgery.attachment import keep_plugs as _loading
from saccade.surgery.attachment import open_call as _opening
from saccade.surgery.guard import guarding_hook as _guarding

__all__ = ["_closing", "_entering", "_guarding", "_leaving", "_loading", "_opening"]
