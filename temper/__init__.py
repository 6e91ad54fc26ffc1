"""temper: make an open reasoning model measurably less harmful, prove it, and serve it safely.

The nouns are imported eagerly; everything that trains or loads a model is imported where it is used, so that `import temper`
stays cheap and never imports torch.
"""

from temper.errors import TemperError
from temper.graders.each import each
from temper.types import Checkpoint, Completion, Example, Grader, Message, Named, Outcome, Sampler, Score, Suite, Usage

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "Completion",
    "Example",
    "Grader",
    "Message",
    "Named",
    "Outcome",
    "Sampler",
    "Score",
    "Suite",
    "TemperError",
    "Usage",
    "each",
]
