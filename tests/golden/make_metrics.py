"""Makes the golden files of the metrics with the official toolkit, which needs Java and pycocoevalcap:

    PYTHONPATH=. python tests/golden/make_metrics.py

`tokens.json`: sentences of ours beside the words that the Java tokenizer makes of them. `metrics.json`: captions of
ours, from a small grammar, beside the figures of the toolkit. Tests compare with these files, so they need no Java.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# Sentences are about one trouble each. The first letter of the next line matters to the Java tokenizer after an
# abbreviation, so each sentence is followed by a line that begins in lower case.
SENTENCES = """
A man walks two dogs on the beach.
A dog's ball, the dogs' owner and somebody's men's room.
They don't know, can't see, won't go and isn't it odd that he shouldn't've
I'm sure you're right; we've seen what they'll do if he'd let it's owner go
The corner of Furnace St. and Crapo St.
A sign on the corner of 8th Ave. and 22 3/4 St.
Mr. and Mrs. Smith met Dr. Jones of the U.S. Navy vs. the rest, etc.
A cat on a T.V. in front of a flat screen t.v.
An old U.S.A flag in Washington D.C.
A street sign for W. Centre st. at 5 p.m. on Sept. 3
a boy wears a Mr. Potato head , and Jr. posters
vitamin C. The bottle is orange
She has a plan B. But it rains
A road.A car is parked.Two people wait
a bird with large wings.l
Wait.. what... is this.... it
What?! No!! Really?
A sign that says "No Parking" by the 'no peddling' sign
A sign that says “No Parking” by the ‘no peddling’ sign of the dog’s owner who doesn’t mind
old- fashioned tub-like t-shirt -half-eaten- and well--known things
A P-51 Mustang, a B-25 and an X-ray
a black/white photo of a pick-up/drop-off point and/or schoolbus/boat/house
an elephant/
a mirror / cabinet
The clock reads 12:43, or 8:25pm on 11.01.2009 and 10-29-2011 or 12/25/10.
1,000 people pay $5.50 or £3, €4 or 5¢ at 50% off #41 & more
a 1950s car in the '60s and the 70's and 1920s' style
Street 122nd, 21st, NW8, mp3 and 4x4
rock 'n' roll, rock & roll, slip n 'slide and R&B by AT&T
hors d'oeuvres at five o'clock with O'Neil and D'Angelo at Ho'ohu and Pe'e roads
ma'am, y'all come'n see the rock'n'roll o'er there 'til dawn
two people (one tall, one short) stand [here] {there} -LRB- so -RRB-
I cannot wait, I wanna go, gimme that, you gotta lemme see what you're gonna do
'Tis the season, 'twas the night
no. 5, No. 6 and no. The answer is no.
fig. 3, art. 7 and the art.
in the bath, tub, or tv., then
Ky., Pa., her pa. and his la. and Ill. and he is ill.
½ of a pizza, 2½ pizzas and ¾ of a cake at 5°C
café naïve Ñandú straße 日本語 привет мир हिन्दी عربي
a dog 😀 and a cat 😺😺 with ★ and ♥
e-mail me@example.com or see www.example.com today
<b>bold</b> a &amp; b &lt; c
a_b, c++ and C# in * stars ** more
:) and :-( and ;) smile
a,b,c;e:f
line one	tabbed  and   spaced
the U.S.-made non-stop 5-year-old 1/2-inch 5-1/2 bolt
J.R.R. Tolkien, J.Crew, Ph.D. and M.D. students
a $5-a-day deal, 10am to 10 a.m.
"""


WORLD = """
a man|a woman|two dogs|a cat|a group of people|a little girl|a red bus|the old horse
is standing|sits|is riding|runs|is looking|waits|plays
on the beach|in front of a house|next to a tree|on a skateboard|at night|with a ball|in the snow
while it is raining|and smiling|with a red hat|near the water|of a busy street|under the trees
"""
TIE = ["a man sits on a bench", "a man sits on a very long bench", "a man sits there"]


def tokens() -> list[list[str]]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    sentences = [line for line in SENTENCES.split("\n") if line.strip()]
    pairs = {number: [{"caption": line}, {"caption": "next"}] for number, line in enumerate(sentences)}
    made = PTBTokenizer().tokenize(pairs)
    return [[line, " ".join(made[number][0].split())] for number, line in enumerate(sentences)]


def captions(seed: int = 0, images: int = 40) -> list[dict[str, Any]]:
    """Images of a small world: references of many lengths, and candidates as a model writes them, good and bad."""
    chance = random.Random(seed)
    who, does, where, more = (line.split("|") for line in WORLD.strip().split("\n"))

    def sentence(subject: str, place: str) -> list[str]:
        words = [subject, chance.choice(does), place] if chance.random() < 0.9 else [subject]
        words += chance.sample(more, chance.choice([0, 0, 1, 2]))
        return " ".join(words).split()

    world = []
    for number in range(images):
        subject, place = chance.choice(who), chance.choice(where)
        references = [
            sentence(subject if chance.random() < 0.7 else chance.choice(who), place)
            for _ in range(chance.choice([1, 2, 4, 5, 5, 5, 6]))
        ]
        good = sentence(subject, place)
        machine = {
            0: [],  # nothing
            1: good[:1],
            2: good[:3],
            3: good + good[-2:] * 3,  # repeats itself
            4: ["a"] * 9,
            5: references[0],  # a copy
            6: [*good, "with", "a"],
            7: [*good, "zebra", "quux"],  # words of no reference
        }.get(number % 13, good)
        world.append({"references": references, "human": sentence(subject, place), "machine": machine})
    # Two references as close in length, one shorter and one longer: the shorter counts.
    tied, *references = (line.split() for line in TIE)
    world[8] = {"references": references, "human": tied, "machine": tied}
    return world


def figures(world: list[dict[str, Any]], which: str) -> dict[str, Any]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {number: [" ".join(words) for words in image["references"]] for number, image in enumerate(world)}
    given = {number: [" ".join(image[which])] for number, image in enumerate(world)}
    bleu, each_bleu = Bleu(4).compute_score(truth, given, verbose=0)
    made = {"BLEU": [list(map(float, bleu)), [list(map(float, row)) for row in each_bleu]]}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr-D", Cider()), ("METEOR", Meteor())):
        corpus, each = scorer.compute_score(truth, given)
        made[name] = [float(corpus), list(map(float, each))]
    return made


def main() -> None:
    from captioner.metrics.java import meteor_counts

    (HERE / "tokens.json").write_text(json.dumps(tokens(), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    world = captions()
    content: dict[str, Any] = {"images": world}
    references = [image["references"] for image in world]
    for which in ("human", "machine"):
        content[which] = figures(world, which)
        content[which]["METEOR counts"] = meteor_counts([image[which] for image in world], references).tolist()
    (HERE / "metrics.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
