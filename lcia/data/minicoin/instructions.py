"""MiniCoIN's instruction lines: one per kind of answer, one per task, or ten paraphrases per task."""

from __future__ import annotations

from collections.abc import Mapping

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
REGION = "Please provide the bounding box coordinate of the region this sentence describes"
OBJECT = "What is the object in the image?"

ORIGIN: Mapping[str, tuple[str, ...]] = {
    "ScienceQA": (LETTER,),
    "TextVQA": (SHORT,),
    "ImageNet": (OBJECT,),
    "GQA": (SHORT,),
    "VizWiz": (SHORT,),
    "Grounding": (REGION,),
    "VQAv2": (SHORT,),
    "OCR-VQA": (SHORT,),
}
"""Templates as CoIN has them: tasks that share a kind of answer share a line."""

DIVERSE: Mapping[str, tuple[str, ...]] = {
    "ScienceQA": ("Pick the correct choice and reply with the letter of that option only.",),
    "TextVQA": ("Read the text in the image and answer the question with a single word.",),
    "ImageNet": ("Which class of object does the picture show?",),
    "GQA": ("Look at the objects in the image and answer the question with a single word or phrase.",),
    "VizWiz": ("Answer the question about the image with a single word, or say unanswerable.",),
    "Grounding": ("Give the coordinates of the bounding box around the region named here",),
    "VQAv2": ("Based on the image, answer the question with one word or a short phrase.",),
    "OCR-VQA": ("Read the cover in the image and answer the question with a single phrase.",),
}

TEN: Mapping[str, tuple[str, ...]] = {
    "ScienceQA": (
        "Answer with the letter of the right option from the choices.",
        "Give only the letter of the option you pick among the choices.",
        "Choose an option from the choices and reply with its letter.",
        "Reply with the letter that marks the correct option in the choices.",
        "From the listed choices, name the letter of the best option.",
        "Write the letter of the one option among the choices that is true.",
        "Select the correct option of these choices by its letter.",
        "Which option is right? Answer with its letter from the choices.",
        "State the letter of the option in the choices that fits.",
        "The answer is one letter: that of the right option in the choices.",
    ),
    "TextVQA": (
        "Answer the question with a word that is written in the image.",
        "Read the image and answer the question with the written word.",
        "Use the word written in the image to answer the question.",
        "Answer the question with the single word you read in the image.",
        "What is written in the image answers the question; give that word.",
        "Give the written word of the image as the answer to the question.",
        "Look at the word written in the image, then answer the question.",
        "The answer to the question is a word written in the image.",
        "Reply to the question with the word that the image has written on it.",
        "Answer the question in one word, as written in the image.",
    ),
    "ImageNet": (
        "What is the object in the image?",
        "Which object does the image show?",
        "Name the object in the image.",
        "What object can be seen in the image?",
        "Tell me the object that is in the image.",
        "What kind of object is in this image?",
        "Identify the object of the image.",
        "Which object is this an image of?",
        "Say what object the image has.",
        "What is the class of the object in the image?",
    ),
    "GQA": (
        "Answer the question about the image with a single word or phrase.",
        "Look at the image and answer the question in a single word or phrase.",
        "Give a single word or phrase that answers the question about the image.",
        "Use a single word or a phrase to answer this question on the image.",
        "With the image in view, answer the question by a single word or phrase.",
        "Answer this question on the image: one single word or phrase is enough.",
        "Reply to the question about the image using a single phrase or word.",
        "The question is about the image; answer it in a single word or phrase.",
        "A single word or phrase is the answer to the question on the image.",
        "Study the image, then answer the question with a single word or phrase.",
    ),
    "VizWiz": (
        "Answer the question about the image in a word, or with unanswerable.",
        "If the image does not tell, answer the question with unanswerable, else with a word.",
        "Answer the question with a word; say unanswerable if the image is unclear.",
        "Give a word as the answer to the question, or unanswerable for an unclear image.",
        "A question on the image: answer it with one word or call it unanswerable.",
        "Answer the question by the image with a single word, unanswerable if you cannot.",
        "Use one word to answer the question about the image, or the word unanswerable.",
        "Reply to the question with a word, or unanswerable where the image fails.",
        "When the image is too poor, the answer to the question is unanswerable, else a word.",
        "Look at the image; answer the question in a word or as unanswerable.",
    ),
    "Grounding": (
        "Give the bounding box coordinates of the region described by",
        "Provide the coordinates of the bounding box for the region",
        "Find the region and write its bounding box as four coordinates",
        "Write the bounding box coordinates of this region",
        "Return the coordinates of the bounding box around the region of",
        "Which bounding box coordinates enclose the region that shows",
        "State the region's bounding box in coordinates, for",
        "Locate the region by its bounding box coordinates",
        "The region below needs a bounding box; list its coordinates",
        "Mark the region with bounding box coordinates",
    ),
    "VQAv2": (
        "Answer the question by looking at the image; one word or a short phrase.",
        "Answer the question on the image in one word or a short phrase.",
        "Look at the image and answer the question with a short phrase or word.",
        "Give a short phrase or a word to answer the question about the image.",
        "Use a word or a short phrase as the answer to the image question.",
        "Answer this question from the image with a word or short phrase.",
        "Reply to the question on the image; use a short phrase or word.",
        "The answer to the question about the image is a word or short phrase.",
        "Based on the image, answer the question by a word or short phrase.",
        "See the image, then answer the question in a word or short phrase.",
    ),
    "OCR-VQA": (
        "Answer the question about the book cover in the image with a word or phrase.",
        "Read the book cover in the image and answer the question in a word or phrase.",
        "Use the book cover in the image to answer the question by a word or phrase.",
        "Give a word or phrase from the image of the book cover to answer the question.",
        "The image is a book cover; answer the question with a word or phrase.",
        "Look at the book cover in the image; answer the question in one word or phrase.",
        "From the image of the book cover, answer the question by a single word or phrase.",
        "Answer the question with a phrase or word that the image of the book cover has.",
        "Reply to the question on the book cover in the image with a word or phrase.",
        "A word or phrase on the book cover in the image answers the question.",
    ),
}
