"""Words and the COCO categories that they name: the names of the 80 categories, synonyms, and plurals. The table was
compiled by hand. Words that name no category or several are not in it."""

from __future__ import annotations

# category: other words for it, in the singular
OTHER_WORDS = {
    "person": "man woman boy girl child kid baby toddler adult guy lady gentleman player rider surfer skier "
    "snowboarder skateboarder skater biker cyclist bicyclist climber hiker runner swimmer pedestrian worker chef "
    "officer policeman batter pitcher catcher umpire teenager male female people crowd",
    "bicycle": "bike",
    "car": "suv sedan minivan taxi cab automobile",
    "motorcycle": "motorbike scooter moped dirtbike",
    "airplane": "plane jet aircraft airliner jetliner",
    "bus": "",
    "train": "locomotive",
    "truck": "pickup lorry",
    "boat": "ship sailboat canoe kayak yacht raft",
    "traffic light": "stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "",
    "bird": "seagull pigeon duck parrot owl goose swan eagle",
    "cat": "kitten kitty",
    "dog": "puppy poodle terrier retriever greyhound dachshund",
    "horse": "pony foal",
    "sheep": "lamb ram",
    "cow": "bull calf ox cattle",
    "elephant": "",
    "bear": "cub",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack knapsack",
    "umbrella": "parasol",
    "handbag": "purse",
    "tie": "necktie",
    "suitcase": "luggage",
    "frisbee": "",
    "skis": "",
    "snowboard": "",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt",
    "skateboard": "longboard",
    "surfboard": "",
    "tennis racket": "racket racquet",
    "bottle": "",
    "wine glass": "",
    "cup": "mug",
    "fork": "",
    "knife": "",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger hamburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake",
    "chair": "armchair recliner stool",
    "couch": "sofa loveseat",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table",
    "toilet": "",
    "tv": "television",
    "laptop": "",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "cellphone smartphone phone",
    "microwave": "",
    "oven": "stove",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddy",
    "hair drier": "hairdryer",
    "toothbrush": "",
}
IRREGULAR = {
    "man": "men", "woman": "women", "gentleman": "gentlemen", "policeman": "policemen", "child": "children",
    "person": "persons", "people": "people", "sheep": "sheep", "cattle": "cattle", "calf": "calves", "ox": "oxen",
    "goose": "geese", "knife": "knives", "mouse": "mice", "aircraft": "aircraft", "skis": "skis",
    "scissors": "scissors", "broccoli": "broccoli", "luggage": "luggage",
}  # fmt: skip
PLACES = frozenset(
    f"{place}{s}" for place in ("train track", "train station", "bus stop", "bus station") for s in ("", "s")
)  # places without necessarily a train or bus
NOT_PLAIN = ("orange",)  # mostly a colour; only the plural names the fruit


def plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


WORDS = {
    word: category
    for category, others in OTHER_WORDS.items()
    for noun in (category, *others.split())
    for word in ((plural(noun),) if noun in NOT_PLAIN else (noun, plural(noun)))
}
