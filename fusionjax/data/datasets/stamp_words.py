"""Nouns for the folders of the Tux Paint stamps, for questions and answers."""

from collections.abc import Sequence

NOUNS = {
    "animals": "an animal", "cartoon": "a cartoon", "clothes": "clothing", "food": "food", "hobbies": "a hobby",
    "household": "a household item", "medical": "a medical item", "military": "a military item",
    "naturalforces": "a force of nature", "people": "a person", "plants": "a plant", "seasonal": "a seasonal item",
    "space": "a space item", "sports": "a sports item", "symbols": "a symbol", "town": "a town item",
    "vehicles": "a vehicle",
}  # fmt: skip
"""Class → noun for its stamps, with an article."""
KINDS = {
    "animals/amphibians": "amphibian", "animals/birds": "bird", "animals/dinosaur": "dinosaur", "animals/fish": "fish",
    "animals/insects": "insect", "animals/lizards": "lizard", "animals/mammals": "mammal", "animals/mammals/apes": "ape",
    "animals/mammals/aquatic": "sea mammal", "animals/mammals/bears": "bear", "animals/mammals/bovines": "bovine",
    "animals/mammals/camel": "camel", "animals/mammals/cats": "cat", "animals/mammals/deer": "deer",
    "animals/mammals/dogs": "dog", "animals/mammals/equines": "horse", "animals/mammals/rodents": "rodent",
    "animals/marsupials": "marsupial", "animals/shellfish": "shellfish", "cartoon/tux": "penguin", "clothes/armor": "armor",
    "clothes/hats": "hat", "food/dessert": "dessert", "food/fruit": "fruit", "food/nuts": "nut", "food/spices": "spice",
    "food/vegetables": "vegetable", "hobbies/music": "musical instrument", "household/arttools": "art tool",
    "household/dishes": "dish", "household/dishes/utensils": "utensil", "household/electronics": "electronic device",
    "household/tools": "tool", "military/ammunition": "ammunition", "military/vehicles": "military vehicle",
    "people/body_parts": "body part", "plants/flowers": "flower", "plants/mushrooms": "mushroom", "plants/trees": "tree",
    "seasonal/christmas": "christmas item", "seasonal/easter": "easter item", "seasonal/halloween": "halloween item",
    "seasonal/hanukkah": "hanukkah item", "seasonal/newyears": "new year item", "seasonal/winter": "winter item",
    "space/moon": "moon", "space/planets": "planet", "symbols/alphabets": "letter", "symbols/alphabets/asl": "hand sign",
    "symbols/chess": "chess piece", "symbols/faces": "face", "symbols/math": "number", "symbols/math/operators": "operator",
    "symbols/money": "money", "symbols/money/00_symbols": "currency sign", "symbols/music": "musical note",
    "symbols/shapes": "shape", "town/flags": "flag", "town/houses": "building", "town/monuments": "monument",
    "town/roadsigns": "road sign", "vehicles/auto": "car", "vehicles/construction": "construction machine",
    "vehicles/cycle": "cycle", "vehicles/emergency": "emergency car", "vehicles/farming": "farm machine",
    "vehicles/flight": "aircraft", "vehicles/locomotive": "train", "vehicles/masstransit": "public transport",
    "vehicles/race": "race car", "vehicles/ship": "ship",
}  # fmt: skip
"""Folder → noun for its stamps; a folder that is not listed (cartoon, toy, outline) takes the noun of its parent."""


def kind(folders: Sequence[str]) -> str:
    """The most specific noun for a stamp in these folders, outermost first; "" where only the class has one."""
    for depth in range(len(folders), 1, -1):
        found = KINDS.get("/".join(folders[:depth]))
        if found:
            return found
    return ""
