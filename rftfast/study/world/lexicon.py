"""The words of the world. All nouns are plural: every count of things in it is 2 or more."""

from __future__ import annotations

NAMES = [
    "Ada", "Amir", "Ben", "Carla", "Chen", "Dana", "Eli", "Emma", "Farah", "Gus",
    "Hana", "Ivan", "Jada", "Kofi", "Lena", "Liam", "Maya", "Milo", "Nora", "Omar",
    "Pia", "Quinn", "Rosa", "Sam", "Tara", "Tom", "Uma", "Vera", "Will", "Zoe",
]  # fmt: skip

THINGS = [
    "apples", "beads", "books", "bricks", "buttons", "candles", "cards", "coins", "cookies", "cups",
    "eggs", "flowers", "hats", "jars", "keys", "kites", "lemons", "marbles", "masks", "nuts",
    "pears", "pencils", "pens", "plates", "plums", "rings", "seeds", "shells", "spoons", "stamps",
    "stickers", "toys",
]  # fmt: skip

CONTAINERS = [
    "bags", "baskets", "boxes", "crates", "drawers", "packs", "shelves", "trays",
]  # fmt: skip

GOODS = [
    "balls", "belts", "brushes", "cakes", "caps", "chairs", "clocks", "dolls", "drums", "lamps",
    "maps", "mugs", "ropes", "scarves", "shirts", "socks",
]  # fmt: skip

GROUPS = [
    "cousins", "friends", "neighbors", "sisters", "classmates", "brothers",
]  # fmt: skip

TIMES = {2: ("twice",), 3: ("three times", "3 times"), 4: ("four times", "4 times"), 5: ("five times", "5 times")}

# What is said of a sum, product or difference that is only half done.
SO_FAR = {
    "+": ("That makes {} so far.", "Together the first two are {}."),
    "*": ("That makes {} each.", "First we get {}."),
    "-": ("Then {} are left.", "Without these there are {}."),
}
