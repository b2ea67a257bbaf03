"""The stories: each draws people, things and numbers, tells them in one of several ways, and asks for one number.

A theme is a function of a ``Random``; what it returns need not be usable (a quotient with a remainder, a number out of
range), ``problems`` draws again then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from rftfast.study.world.expressions import Expression, Given, Step
from rftfast.study.world.lexicon import CONTAINERS, GOODS, GROUPS, NAMES, THINGS, TIMES


@dataclass(frozen=True)
class Story:
    """Sentences that state the numbers, the question's last sentence, and how the answer comes about."""

    sentences: tuple[str, ...]
    asks: str
    root: Expression


def stock(rng: Random) -> Story:
    """Things come from one to three sources, some go, and the rest is counted, shared out or sold."""
    hero, friend = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    sentences: list[str] = []
    sources: list[Expression] = []
    for place in range(rng.choice((1, 1, 2, 2, 3))):
        kind = (
            rng.choice(("plain", "boxes", "boxes", "more", "times")) if place == 0 else rng.choice(("plain", "boxes"))
        )
        text, source = _source(rng, kind, place, hero, friend, things)
        sentences.append(text)
        sources.append(source)
    have: Expression = sources[0]
    if len(sources) > 1:
        forms = (
            f"In all {hero} has {{}} {things}.",
            f"{hero} has {{}} {things} altogether.",
            f"The total is {{}} {things}.",
        )
        have = Step("+", tuple(sources), forms)
    gone: list[Expression] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        text, loss = _loss(rng, hero, things)
        sentences.append(text)
        gone.append(loss)
    if gone:
        forms = (
            f"{hero} has {{}} {things} left.",
            f"So {{}} {things} remain.",
            f"Now there are {{}} {things}.",
        )
        have = Step("-", (have, *gone), forms)
    return _stock_end(rng, sentences, have, hero, things)


def _source(rng: Random, kind: str, place: int, hero: str, friend: str, things: str) -> tuple[str, Expression]:
    texts: tuple[str, ...]
    if kind == "plain":
        n = rng.randint(3, 40)
        texts = (
            (
                f"{hero} has {n} {things}.",
                f"{hero} starts with {n} {things}.",
                f"There are {n} {things} on the desk of {hero}.",
            )
            if place == 0
            else (
                f"Then {hero} finds {n} more {things}.",
                f"{hero} gets {n} {things} as a gift.",
                f"Later {hero} buys {n} more {things}.",
            )
        )
        return rng.choice(texts), Given(n)
    if kind == "boxes":
        n, each, held = rng.randint(2, 9), rng.randint(2, 12), rng.choice(CONTAINERS)
        texts = (
            (
                f"{hero} has {n} {held} with {each} {things} in each.",
                f"{hero} owns {n} {held} of {each} {things}.",
                f"Each of the {n} {held} of {hero} holds {each} {things}.",
            )
            if place == 0
            else (
                f"Then {hero} buys {n} {held} of {each} {things}.",
                f"{hero} also gets {n} {held} with {each} {things} in each.",
            )
        )
        forms = (
            f"The {held} hold {{}} {things}.",
            f"There are {{}} {things} in the {held}.",
            f"{n} {held} make {{}} {things}.",
        )
        return rng.choice(texts), Step("*", (Given(n), Given(each)), forms)
    start = rng.randint(3, 30)
    forms = (
        f"{hero} has {{}} {things}.",
        f"So {hero} owns {{}} {things}.",
        f"The number of {things} {hero} has is {{}}.",
    )
    if kind == "more":
        n = rng.randint(2, 20)
        texts = (
            f"{friend} has {start} {things}. {hero} has {n} more {things} than {friend}.",
            f"{hero} has {n} more {things} than {friend}, who has {start}.",
        )
        return rng.choice(texts), Step("+", (Given(start), Given(n)), forms)
    m = rng.choice(tuple(TIMES))
    times = rng.choice(TIMES[m])
    texts = (
        f"{friend} has {start} {things}. {hero} has {times} as many {things}.",
        f"{hero} has {times} as many {things} as {friend}, who has {start}.",
    )
    return rng.choice(texts), Step("*", (Given(start), Given(m)), forms)


def _loss(rng: Random, hero: str, things: str) -> tuple[str, Expression]:
    texts: tuple[str, ...]
    if rng.random() < 0.5:
        n = rng.randint(2, 20)
        texts = (f"{hero} loses {n} {things}.", f"{n} of the {things} break.", f"{hero} gives {n} {things} away.")
        return rng.choice(texts), Given(n)
    n, each, group = rng.randint(2, 6), rng.randint(2, 9), rng.choice(GROUPS)
    texts = (
        f"{hero} gives {each} {things} to each of {n} {group}.",
        f"{n} {group} take {each} {things} each.",
    )
    forms = (
        f"The {group} get {{}} {things}.",
        f"{hero} gives away {{}} {things}.",
        f"That is {{}} {things} for the {group}.",
    )
    return rng.choice(texts), Step("*", (Given(n), Given(each)), forms)


def _stock_end(rng: Random, sentences: list[str], have: Expression, hero: str, things: str) -> Story:
    end = rng.choice(("count", "count", "share", "sell", "pack"))
    if end == "count":
        asks = (f"How many {things} does {hero} have now?", f"How many {things} are there now?")
        return Story(tuple(sentences), rng.choice(asks), have)
    if end == "sell":
        price = rng.randint(2, 9)
        sentences.append(
            rng.choice((f"{hero} sells all of them for ${price} each.", f"Each one is then sold for ${price}."))
        )
        asks = (f"How many dollars does {hero} get?", f"How much money does {hero} make?")
        forms = (f"{hero} gets ${{}}.", f"The {things} bring in ${{}}.", "That makes ${}.")
        return Story(tuple(sentences), rng.choice(asks), Step("*", (have, Given(price)), forms))
    n = rng.randint(2, 9)
    if end == "share":
        group = rng.choice(GROUPS)
        sentences.append(
            rng.choice((f"{n} {group} share the {things} equally.", f"{hero} shares them equally among {n} {group}."))
        )
        asks = ("How many does each of them get?", f"How many {things} does each one get?")
        forms = (
            f"Each one gets {{}} {things}.",
            f"That is {{}} {things} for each.",
            f"So each of the {n} {group} gets {{}}.",
        )
    else:
        held = rng.choice(CONTAINERS)
        sentences.append(
            rng.choice((f"{hero} packs them into {held} of {n}.", f"{n} {things} fit into each of the new {held}."))
        )
        asks = (f"How many {held} does {hero} need?", f"How many {held} are filled?")
        forms = (f"{hero} needs {{}} {held}.", f"They fill {{}} {held}.", f"That is {{}} {held}.")
    return Story(tuple(sentences), rng.choice(asks), Step("/", (have, Given(n)), forms))


def shop(rng: Random) -> Story:
    """Several goods are paid for; the bill, the change or a share of it is asked for."""
    hero = rng.choice(NAMES)
    sentences: list[str] = []
    costs: list[Expression] = []
    for place, goods in enumerate(rng.sample(GOODS, rng.choice((1, 2, 2, 3)))):
        n, price = rng.randint(2, 9), rng.randint(2, 15)
        verb = "buys" if place == 0 else "also buys"
        texts = (
            f"{hero} {verb} {n} {goods} at ${price} each.",
            f"{hero} {verb} {n} {goods}. The {goods} cost ${price} each.",
            f"{hero} {verb} {n} {goods} for ${price} apiece.",
        )
        sentences.append(rng.choice(texts))
        forms = (f"The {goods} cost ${{}}.", f"{hero} pays ${{}} for the {goods}.", f"{n} {goods} are ${{}}.")
        costs.append(Step("*", (Given(n), Given(price)), forms))
    if rng.random() < 0.3:
        fee = rng.randint(2, 12)
        sentences.append(rng.choice((f"A taxi home costs ${fee}.", f"{hero} also pays ${fee} for lunch.")))
        costs.append(Given(fee))
    bill: Expression = costs[0]
    if len(costs) > 1:
        forms = ("The total is ${}.", f"In all {hero} pays ${{}}.", "Together that is ${}.")
        bill = Step("+", tuple(costs), forms)
    end = rng.choice(("total", "change", "change", "split", "save"))
    if end == "total":
        asks = (f"How much does {hero} pay in all?", f"How many dollars does {hero} spend?")
        return Story(tuple(sentences), rng.choice(asks), bill)
    if end == "change":
        paid = rng.choice((20, 25, 30, 40, 50))
        sentences.append(rng.choice((f"{hero} had ${paid}.", f"{hero} pays with ${paid}.")))
        asks = (f"How many dollars does {hero} have left?", f"How much change does {hero} get?")
        forms = (f"{hero} has ${{}} left.", "The change is ${}.", "So ${} is left.")
        return Story(tuple(sentences), rng.choice(asks), Step("-", (Given(paid), bill), forms))
    n = rng.randint(2, 8)
    if end == "split":
        group = rng.choice(GROUPS)
        sentences.append(
            rng.choice((f"{n} {group} split the bill equally.", f"{n} {group} pay for it in equal parts."))
        )
        asks = ("How much does each of them pay?", "How many dollars does each one pay?")
        forms = ("Each one pays ${}.", f"For each of the {group} that is ${{}}.", "So everyone pays ${}.")
    else:
        sentences.append(rng.choice((f"{hero} can save ${n} a day.", f"Every day {hero} puts ${n} aside for it.")))
        asks = (f"How many days does {hero} have to save?", f"After how many days can {hero} pay?")
        forms = (f"{hero} needs {{}} days.", "It takes {} days.", f"So {hero} saves for {{}} days.")
    return Story(tuple(sentences), rng.choice(asks), Step("/", (bill, Given(n)), forms))


def work(rng: Random) -> Story:
    """Hours are paid, something comes on top, something is spent."""
    hero = rng.choice(NAMES)
    hours, wage, days = rng.randint(2, 8), rng.randint(3, 12), rng.randint(2, 6)
    sentences: list[str] = []
    factors: tuple[Given, ...]
    if rng.random() < 0.5:
        texts = (
            f"{hero} works {hours} hours a day for {days} days. The pay is ${wage} an hour.",
            f"For {days} days {hero} works {hours} hours each day and earns ${wage} an hour.",
        )
        factors = (Given(hours), Given(days), Given(wage))
    else:
        texts = (
            f"{hero} works {hours} hours for ${wage} an hour.",
            f"{hero} earns ${wage} an hour and works {hours} hours.",
        )
        factors = (Given(hours), Given(wage))
    sentences.append(rng.choice(texts))
    forms = (f"{hero} earns ${{}}.", "The pay is ${}.", f"For the hours {hero} gets ${{}}.")
    money: Expression = Step("*", factors, forms)
    more: list[Expression] = []
    for kind in rng.sample(("tips", "errands", "gift"), rng.choice((0, 1, 1, 2))):
        if kind == "errands":
            n, each = rng.randint(2, 8), rng.randint(2, 9)
            sentences.append(
                rng.choice(
                    (f"{hero} also walks {n} dogs for ${each} each.", f"{n} errands bring another ${each} each.")
                )
            )
            more.append(
                Step(
                    "*",
                    (Given(n), Given(each)),
                    ("These bring ${}.", f"That adds ${{}} for {hero}.", "The extra money is ${}."),
                )
            )
        else:
            n = rng.randint(3, 30)
            sentences.append(f"{hero} gets ${n} in tips." if kind == "tips" else f"An aunt gives {hero} ${n}.")
            more.append(Given(n))
    if more:
        forms = (f"In all {hero} has ${{}}.", "The sum is ${}.", f"{hero} makes ${{}} altogether.")
        money = Step("+", (money, *more), forms)
    end = rng.choice(("total", "spend", "spend", "goods"))
    if end == "total":
        asks = (f"How much money does {hero} make?", f"How many dollars does {hero} have then?")
        return Story(tuple(sentences), rng.choice(asks), money)
    asks = (f"How many dollars does {hero} have left?", f"How much money is left for {hero}?")
    forms = (f"{hero} has ${{}} left.", "So ${} is left.", f"After that {hero} keeps ${{}}.")
    if end == "spend":
        n = rng.randint(3, 40)
        sentences.append(rng.choice((f"{hero} spends ${n}.", f"Food costs {hero} ${n}.", f"{hero} pays back ${n}.")))
        return Story(tuple(sentences), rng.choice(asks), Step("-", (money, Given(n)), forms))
    n, price, goods = rng.randint(2, 6), rng.randint(2, 12), rng.choice(GOODS)
    sentences.append(
        rng.choice((f"Then {hero} buys {n} {goods} for ${price} each.", f"{hero} pays ${price} each for {n} {goods}."))
    )
    cost = Step(
        "*", (Given(n), Given(price)), (f"The {goods} cost ${{}}.", f"{hero} spends ${{}}.", f"{n} {goods} are ${{}}.")
    )
    return Story(tuple(sentences), rng.choice(asks), Step("-", (money, cost), forms))


def compare(rng: Random) -> Story:
    """What one has is told by what another has; one of them, the difference or all of it is asked for."""
    people = rng.sample(NAMES, rng.choice((2, 3, 3, 4)))
    things = rng.choice(THINGS)
    start = rng.randint(3, 30)
    sentences = [rng.choice((f"{people[0]} has {start} {things}.", f"{people[0]} collects {start} {things}."))]
    counts: list[Expression] = [Given(start)]
    for place, who in enumerate(people[1:], start=1):
        basis = place - 1 if rng.random() < 0.7 else 0
        other = people[basis]
        forms = (f"{who} has {{}} {things}.", f"So {who} collects {{}}.", f"The number for {who} is {{}}.")
        kind = rng.choice(("more", "fewer", "times", "half"))
        n = rng.randint(2, 15)
        if kind == "more":
            texts = (f"{who} has {n} more {things} than {other}.", f"{who} has {n} more than {other}.")
            count = Step("+", (counts[basis], Given(n)), forms)
        elif kind == "fewer":
            texts = (f"{who} has {n} fewer {things} than {other}.", f"{who} has {n} less than {other}.")
            count = Step("-", (counts[basis], Given(n)), forms)
        elif kind == "half":
            texts = (f"{who} has half as many {things} as {other}.", f"{who} has half as many as {other}.")
            count = Step("/", (counts[basis], Given(2)), forms)
        else:
            m = rng.choice(tuple(TIMES))
            times = rng.choice(TIMES[m])
            texts = (f"{who} has {times} as many {things} as {other}.", f"{who} has {times} as many as {other}.")
            count = Step("*", (counts[basis], Given(m)), forms)
        sentences.append(rng.choice(texts))
        counts.append(count)
    end = rng.choice(("last", "sum", "sum", "difference"))
    if end == "last":
        return Story(tuple(sentences), f"How many {things} does {people[-1]} have?", counts[-1])
    if end == "sum":
        asks = (f"How many {things} do they have in all?", f"How many {things} do they have altogether?")
        forms = (f"In all they have {{}} {things}.", f"Together that is {{}} {things}.", "The sum is {}.")
        return Story(tuple(sentences), rng.choice(asks), Step("+", tuple(counts), forms))
    big, small = (-1, 0) if counts[-1].value > counts[0].value else (0, -1)
    asks = (
        f"How many more {things} does {people[big]} have than {people[small]}?",
        f"What is the difference between {people[big]} and {people[small]}?",
    )
    forms = (f"{people[big]} has {{}} more.", "The difference is {}.", f"That is {{}} more {things}.")
    return Story(tuple(sentences), rng.choice(asks), Step("-", (counts[big], counts[small]), forms))


def pages(rng: Random) -> Story:
    """A book is read at one pace and then at another; what is left, or how long that takes, is asked for."""
    hero = rng.choice(NAMES)
    sentences: list[str] = []
    read: list[Expression] = []
    for place in range(rng.choice((1, 2, 2, 3))):
        a, days = rng.randint(3, 20), rng.randint(2, 7)
        when = ("", "Then ", "After that ")[place]
        if place and rng.random() < 0.3:
            sentences.append(f"{when}{hero} reads {a} more pages.")
            read.append(Given(a))
            continue
        texts = (
            f"{when}{hero} reads {a} pages a day for {days} days.",
            f"{when}{hero} reads for {days} days, {a} pages each day.",
        )
        sentences.append(rng.choice(texts))
        forms = (f"{hero} reads {{}} pages.", f"In {days} days that is {{}} pages.", f"{days} days make {{}} pages.")
        read.append(Step("*", (Given(a), Given(days)), forms))
    done: Expression = read[0]
    if len(read) > 1:
        forms = (f"In all {hero} reads {{}} pages.", "Together that is {} pages.", "So {} pages are read.")
        done = Step("+", tuple(read), forms)
    if rng.random() < 0.25:
        return Story(tuple(sentences), f"How many pages does {hero} read in all?", done)
    book = rng.randint(20, 50)
    sentences.insert(0, rng.choice((f"A book has {book} pages.", f"{hero} has a book of {book} pages.")))
    forms = (f"{hero} has {{}} pages left.", "So {} pages are left.", "The rest is {} pages.")
    left = Step("-", (Given(book), done), forms)
    if rng.random() < 0.5:
        return Story(
            tuple(sentences),
            rng.choice(("How many pages are left?", f"How many pages does {hero} still have to read?")),
            left,
        )
    days = rng.randint(2, 9)
    sentences.append(
        rng.choice((f"{hero} wants to read the rest in {days} days.", f"The rest has to be read in {days} days."))
    )
    forms = (f"{hero} has to read {{}} pages a day.", "That is {} pages a day.", "So it is {} pages each day.")
    return Story(tuple(sentences), "How many pages a day is that?", Step("/", (left, Given(days)), forms))


def garden(rng: Random) -> Story:
    """Rows of plants, some of which die; what the rest yields is asked for."""
    hero = rng.choice(NAMES)
    plants = rng.choice(("bushes", "roses", "trees", "vines"))
    beds: list[Expression] = []
    sentences: list[str] = []
    for place in range(rng.choice((1, 1, 2))):
        rows, each = rng.randint(2, 9), rng.randint(3, 12)
        texts = (
            (
                f"{hero} plants {rows} rows of {each} {plants}.",
                f"In the garden of {hero} there are {rows} rows with {each} {plants} each.",
            )
            if place == 0
            else (
                f"Behind the house there are {rows} more rows of {each} {plants}.",
                f"{hero} adds {rows} rows with {each} {plants} each.",
            )
        )
        sentences.append(rng.choice(texts))
        forms = (
            f"The {rows} rows have {{}} {plants}.",
            f"That is {{}} {plants} in {rows} rows.",
            f"{hero} plants {{}} {plants}.",
        )
        beds.append(Step("*", (Given(rows), Given(each)), forms))
    alive: Expression = beds[0]
    if len(beds) > 1:
        forms = (
            f"In all there are {{}} {plants}.",
            f"The garden has {{}} {plants}.",
            f"Together that is {{}} {plants}.",
        )
        alive = Step("+", tuple(beds), forms)
    if rng.random() < 0.6:
        n = rng.randint(2, 15)
        sentences.append(rng.choice((f"{n} of the {plants} die.", f"A storm kills {n} {plants}.")))
        forms = (f"{{}} {plants} live.", f"So {{}} {plants} are left.", f"{hero} has {{}} {plants} left.")
        alive = Step("-", (alive, Given(n)), forms)
    if rng.random() < 0.3:
        return Story(tuple(sentences), f"How many {plants} does {hero} have now?", alive)
    n, unit = rng.randint(2, 9), rng.choice(("flowers", "berries", "leaves", "branches"))
    sentences.append(rng.choice((f"Each of them has {n} {unit}.", f"Every one grows {n} {unit}.")))
    forms = (f"They have {{}} {unit}.", f"There are {{}} {unit} in all.", f"That makes {{}} {unit}.")
    return Story(tuple(sentences), f"How many {unit} are there?", Step("*", (alive, Given(n)), forms))


THEMES: tuple[Callable[[Random], Story], ...] = (stock, shop, work, compare, pages, garden)
