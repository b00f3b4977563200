"""Page on which a person sees where several networks look: ``saccade serve``, built with Gradio.

Pictures stay in memory, and the page loads nothing from other servers.
"""

from saccade.web.server import serve as serve

__all__ = ["serve"]
