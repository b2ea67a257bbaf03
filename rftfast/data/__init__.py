"""Records, question files, prompt templates and the run directory. Knows nothing of torch."""

from rftfast.data.parts import StoredQuestion
from rftfast.data.prompts import TEMPLATES, Template, exemplars, load_template
from rftfast.data.questions import fingerprint, load_questions, question_hash
from rftfast.data.records import Completion, Question, Verdict
from rftfast.data.run_dir import RunDir, summarize

__all__ = [
    "TEMPLATES",
    "Completion",
    "Question",
    "RunDir",
    "StoredQuestion",
    "Template",
    "Verdict",
    "exemplars",
    "fingerprint",
    "load_questions",
    "load_template",
    "question_hash",
    "summarize",
]
