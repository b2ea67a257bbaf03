"use strict";
// The browser of questions. Everything a model wrote becomes a text node: this file never makes markup out of text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const browser = document.querySelector(".browser");
  if (!browser || !data.sets.length) return;

  const $ = (id) => document.getElementById(id);
  const [ID, TEXT, SAMPLES, RIGHT, KEPT, COUNTS, CHUNK] = [0, 1, 2, 3, 4, 5, 6]; // places in a line of the index
  const PAGE = 100; // lines of the list that are made at a time
  const LISTS = 12; // equation lists of a question that are shown at first
  const SAMPLES_AT_ONCE = 6; // and so many samples of each
  const OPENED = 8; // chunks kept unpacked
  const WORDS = {
    correct: ["✓", "correct"],
    wrong_answer: ["✗", "wrong answer"],
    wrong_equation: ["≠", "false equation"],
    no_answer: ["–", "no answer"],
    truncated: ["…", "cut at its length"],
    timeout: ["!", "too much to check"],
  };
  const number = (n) => n.toLocaleString("en");

  function make(tag, name, ...inside) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...inside.filter((item) => item !== null && item !== undefined));
    return node;
  }

  // Text that a model wrote

  // What cannot be seen, or turns the direction of what follows, is shown by its code.
  const HIDDEN =
    /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

  function plain(text) {
    const parts = [];
    let from = 0;
    for (const found of text.matchAll(HIDDEN)) {
      if (found.index > from) parts.push(text.slice(from, found.index));
      const code = found[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
      parts.push(make("span", "ctl", `U+${code}`));
      from = found.index + 1;
    }
    if (from < text.length) parts.push(text.slice(from));
    return parts;
  }

  // The text with stretches marked: [start, end, class], in any order, one within another as may be.
  function marked(text, stretches) {
    if (!stretches.length) return plain(text);
    const cuts = [...new Set([0, text.length, ...stretches.flatMap(([a, b]) => [a, b])])].sort((a, b) => a - b);
    const parts = [];
    for (let i = 0; i + 1 < cuts.length; i++) {
      const [a, b] = [cuts[i], cuts[i + 1]];
      const names = stretches.filter(([from, to]) => from <= a && b <= to).map((s) => s[2]);
      const inside = plain(text.slice(a, b));
      if (names.length) parts.push(make("span", names.join(" "), ...inside));
      else parts.push(...inside);
    }
    return parts;
  }

  function hits(text) {
    const low = text.toLowerCase();
    if (low.length !== text.length) return []; // a letter that grows in lower case would shift the places
    const found = [];
    for (const term of state.terms) {
      for (let at = low.indexOf(term); at >= 0 && found.length < 500; at = low.indexOf(term, at + term.length)) {
        found.push([at, at + term.length, "hit"]);
      }
    }
    return found;
  }

  function prose(tag, name, text, stretches = []) {
    const calculations = [...text.matchAll(/<<[^>]*>>/g)].map((m) => [m.index, m.index + m[0].length, "calc"]);
    const node = make(tag, name, ...marked(text, [...calculations, ...stretches, ...hits(text)]));
    node.dir = "auto";
    return node;
  }

  // Unpacking

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  const opened = new Map(); // "set/chunk" -> a promise of its questions, the longest unused first
  function chunk(set, place) {
    const name = `${set}/${place}`;
    const found = opened.get(name) ?? unpack(data.sets[set].chunks[place]);
    opened.delete(name);
    opened.set(name, found);
    if (opened.size > OPENED) opened.delete(opened.keys().next().value);
    return found;
  }

  // Where in its chunk a question stands: as many lines of the index before it name the same chunk.
  function position(index, question) {
    let first = question;
    while (first > 0 && index[first - 1][CHUNK] === index[question][CHUNK]) first--;
    return question - first;
  }

  const record = async (set, question) => {
    const index = state.index;
    return (await chunk(set, index[question][CHUNK]))[position(index, question)];
  };

  // The list

  const state = { set: 0, index: [], terms: [], verdict: "", found: [], made: 0, open: -1, round: 0 };

  function fits(line) {
    const wanted = $("solved").value;
    if (wanted === "solved" && !line[RIGHT]) return false;
    if (wanted === "unsolved" && line[RIGHT]) return false;
    if (wanted === "several" && line[KEPT] < 2) return false;
    return !state.verdict || line[COUNTS][data.verdicts.indexOf(state.verdict)] > 0;
  }

  const ORDERS = {
    file: null,
    hard: (a, b) => a[RIGHT] / a[SAMPLES] - b[RIGHT] / b[SAMPLES],
    easy: (a, b) => b[RIGHT] / b[SAMPLES] - a[RIGHT] / a[SAMPLES],
    paths: (a, b) => b[KEPT] - a[KEPT],
  };

  // All terms must occur, in the id and the question, or, asked for, in the gold solution or one sample.
  async function search() {
    const round = ++state.round;
    state.terms = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    state.verdict = $("verdict").value;
    const all = (text) => state.terms.every((term) => text.includes(term));
    const found = [];
    const unsure = [];
    state.index.forEach((line, i) => {
      if (!fits(line)) return;
      if (all(`${line[ID]} ${line[TEXT]}`.toLowerCase())) found.push(i);
      else if ($("deep").checked) unsure.push(i);
    });
    if (state.terms.length && unsure.length) {
      const chunks = new Map();
      for (const i of unsure) {
        const place = state.index[i][CHUNK];
        chunks.set(place, [...(chunks.get(place) ?? []), i]);
      }
      let done = 0;
      for (const [place, members] of chunks) {
        say(`searching samples, ${Math.round((100 * done++) / chunks.size)} %`);
        const records = await unpack(data.sets[state.set].chunks[place]);
        if (round !== state.round) return; // the user has typed on
        for (const i of members) {
          const { g, s } = records[position(state.index, i)];
          if (all(g.toLowerCase()) || s.some((sample) => all(sample.t.toLowerCase()))) found.push(i);
        }
      }
      found.sort((a, b) => a - b);
    }
    const order = ORDERS[$("order").value];
    if (order) found.sort((a, b) => order(state.index[a], state.index[b]) || a - b);
    state.found = found;
    state.made = 0;
    $("list").replaceChildren();
    more();
    say(tally(found.length));
  }

  function say(words) {
    $("status").textContent = words;
  }

  function tally(found) {
    const set = data.sets[state.set];
    const shown = found === state.index.length ? `${number(found)} questions` : `${number(found)} of ${number(state.index.length)} questions`;
    if (set.packed === set.samples) return `${shown}, all ${number(set.samples)} samples`;
    return (
      `${shown}. ${number(set.packed)} of ${number(set.samples)} samples are in this page with their text, ${set.most} a question, kept paths first; ` +
      `the others are counted. rftfast report --samples 0 puts all in.`
    );
  }

  function more() {
    const next = state.found.slice(state.made, state.made + PAGE);
    state.made += next.length;
    $("list").append(...next.map(item));
  }

  function item(i) {
    const line = state.index[i];
    const rate = make("span", "rate", make("span"));
    rate.firstChild.style.width = `${(100 * line[RIGHT]) / line[SAMPLES]}%`;
    const what = make("span", "what", ...marked(line[TEXT].slice(0, 300), hits(line[TEXT].slice(0, 300))));
    what.dir = "auto";
    const figures = make("span", "figures-of", `${line[RIGHT]}/${line[SAMPLES]}`, rate);
    figures.title = `${line[RIGHT]} of ${line[SAMPLES]} samples have the right answer; ${line[KEPT]} paths kept`;
    const link = make("a", "", what, figures);
    link.href = `#q/${state.set}/${i}`;
    link.dataset.question = i;
    if (i === state.open) link.setAttribute("aria-current", "true");
    return make("li", "", link);
  }

  // One question

  async function show(i, focus) {
    const line = state.index[i];
    if (!line) return;
    state.open = i;
    document.body.classList.add("reading");
    for (const link of $("list").querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
    const link = $("list").querySelector(`[data-question="${i}"]`);
    if (link) {
      link.setAttribute("aria-current", "true");
      link.scrollIntoView({ block: "nearest" });
    }
    const found = await record(state.set, i);
    if (state.open !== i) return;
    detail(line, found, state.verdict);
    if (focus) {
      $("question").focus({ preventScroll: true });
      const top = $("question").getBoundingClientRect().top;
      if (top < 0 || top > innerHeight / 2) $("question").scrollIntoView();
    }
  }

  function detail(line, found, only) {
    const top = make("div", "bar-top");
    const back = make("button", "back", "‹ All questions");
    back.addEventListener("click", leave);
    const previous = make("button", "", "Previous");
    previous.addEventListener("click", () => step(-1));
    const next = make("button", "", "Next");
    next.addEventListener("click", () => step(1));
    const id = make("span", "id", ...plain(line[ID]));
    top.append(back, previous, next, id);

    const gold = make("details", "gold", make("summary", "", "Gold solution: ", ...plain(answer(found.g))));
    gold.append(prose("div", "text", found.g));

    const buttons = data.verdicts.map((name, place) => {
      if (!line[COUNTS][place]) return null;
      const [sign, word] = WORDS[name];
      const button = make("button", "", make("span", `mark v-${name}`, `${sign} ${word}`), make("b", "", number(line[COUNTS][place])));
      button.setAttribute("aria-pressed", String(only === name));
      button.addEventListener("click", () => detail(line, found, only === name ? "" : name));
      return button;
    });
    const verdicts = make("div", "verdicts", ...buttons);
    verdicts.setAttribute("role", "group");
    verdicts.setAttribute("aria-label", "Samples by verdict");

    const asked = make("p", "asked", ...marked(line[TEXT], hits(line[TEXT])));
    asked.dir = "auto";
    $("question").replaceChildren(top, asked, gold, verdicts, ...lists(line, found, only));
  }

  // What stands behind the marker, in the summary; the whole is a click away.
  function answer(gold) {
    const last = gold.slice(gold.lastIndexOf("####") + 4).trim();
    return gold.includes("####") ? last.slice(0, 80) : gold.trim().slice(-80);
  }

  function lists(line, found, only) {
    const wanted = (verdict) => !only || data.verdicts[verdict] === only;
    const groups = new Map(); // place of a list, or -1 -> {samples, rest}
    const group = (place) => {
      if (!groups.has(place)) groups.set(place, { place, samples: [], rest: [], count: 0 });
      return groups.get(place);
    };
    for (const sample of found.s) {
      if (!wanted(sample.v)) continue;
      group(sample.l).samples.push(sample);
      group(sample.l).count++;
    }
    for (const [place, verdict, count] of found.r) {
      if (!wanted(verdict)) continue;
      group(place).rest.push([verdict, count]);
      group(place).count += count;
    }
    const rank = ({ place, samples, count }) => [place < 0 ? 2 : samples.some((s) => s.k) ? 0 : 1, -count, place];
    const sorted = [...groups.values()].sort((a, b) => {
      const [x, y] = [rank(a), rank(b)];
      const i = x.findIndex((v, at) => v !== y[at]);
      return i < 0 ? 0 : x[i] - y[i];
    });
    const lead = make("p", "fine", summary(line, groups.size - groups.has(-1), only));
    const nodes = sorted.slice(0, LISTS).map((each, at) => section(each, found, at));
    if (sorted.length > LISTS) {
      const button = make("button", "", `Show ${sorted.length - LISTS} more equation lists`);
      button.addEventListener("click", () => {
        button.replaceWith(...sorted.slice(LISTS).map((each, at) => section(each, found, LISTS + at)));
      });
      nodes.push(button);
    }
    return [lead, ...nodes];
  }

  function summary(line, count, only) {
    const of = only ? `Samples with the verdict “${WORDS[only][1]}”` : `${number(line[SAMPLES])} samples`;
    const kept = line[KEPT] === 1 ? "1 path is kept" : `${line[KEPT]} paths are kept`;
    return `${of}, in ${number(count)} equation ${count === 1 ? "list" : "lists"} here. ${kept}: of each list whose calculation is right and leads to the right answer, the one farthest from those of the other lists, counted in edits of a character.`;
  }

  function section({ place, samples, rest, count }, found, at) {
    const node = make("section", "list");
    const head = make("h3");
    const equations = place < 0 ? [] : found.l[place];
    if (place < 0) head.append(make("span", "none", "other equation lists"));
    else if (!equations.length) head.append(make("span", "none", "without equations"));
    for (const equation of equations.slice(0, 40)) {
      const chip = make("span", "eq", ...plain(equation.slice(0, 200)));
      chip.dir = "auto";
      head.append(chip);
    }
    if (equations.length > 40) head.append(make("span", "none", `and ${equations.length - 40} more`));
    head.append(make("span", "fine", count === 1 ? "1 sample" : `${number(count)} samples`));
    node.append(head);
    const others = (found.o[place] ?? []).map((run) => data.sets[data.sets[state.set].first + run].name);
    if (others.length) node.append(make("p", "fine", "Also found by ", ...plain(others.join(", ")), "."));
    samples.sort((a, b) => (b.k ?? 0) - (a.k ?? 0) || a.v - b.v || a.i - b.i);
    const shown = samples.length > SAMPLES_AT_ONCE + 2 ? SAMPLES_AT_ONCE : samples.length;
    node.append(...samples.slice(0, shown).map((sample, i) => one(sample, sample.k === 1 || (at === 0 && i === 0))));
    if (shown < samples.length) {
      const button = make("button", "more", `${samples.length - shown} more of this list`);
      button.addEventListener("click", () => button.replaceWith(...samples.slice(shown).map((sample) => one(sample, false))));
      node.append(button);
    }
    if (rest.length) {
      const told = rest.map(([verdict, n]) => `${number(n)} ${WORDS[data.verdicts[verdict]][1]}`).join(", ");
      node.append(make("p", "fine", `${samples.length ? "And" : "Not in this page:"} ${told}${samples.length ? ", not in this page" : ""}.`));
    }
    return node;
  }

  function one(sample, open) {
    const name = data.verdicts[sample.v];
    const node = make("details", sample.k ? "sample kept" : "sample");
    const [sign, word] = WORDS[name];
    const said = name === "correct" || sample.a === undefined ? word : `${word} ${sample.a}`;
    const reason = why(sample, name);
    const first = sample.t.trim().slice(0, 200).replace(/\s+/g, " ");
    const size = sample.n === undefined ? "" : `${number(sample.n)} tokens`;
    node.append(
      make(
        "summary",
        "",
        make("span", "number", `#${sample.i}`),
        make("span", `mark v-${name}`, `${sign} `, ...plain(said.slice(0, 80))),
        make("span", "said", make("span", "why", reason), reason.length < 40 ? make("span", "first", ...plain(first)) : null),
        make("span", "size", size),
      ),
    );
    if (sample.p !== undefined) node.querySelector(".size").title = `log-probability ${sample.p}`;
    const fill = () => {
      if (node.childElementCount > 1 || !node.open) return;
      const cut = sample.c === undefined ? null : make("p", "fine", `The first ${number(sample.t.length)} of ${number(sample.c)} characters.`);
      const body = sample.e ? steps(sample) : prose("div", "text", sample.t, (sample.x ?? []).map(([a, b]) => [a, b, "false"]));
      node.append(body, ...(cut ? [cut] : []));
    };
    node.addEventListener("toggle", fill);
    if (open) {
      node.open = true;
      fill();
    }
    return node;
  }

  // Values of single steps: how likely each leads to the right answer, and what it added.
  const MARKS = { pit: "first pit: from here on nothing was right", spurious: "no progress" };
  function steps({ e: values, t, x }) {
    const list = make("ol", "steps");
    const wrong = values.map((value) => value.text).join("") === t ? (x ?? []) : [];
    let at = 0;
    for (const { text, q, advantage, mark } of values) {
      const end = at + text.length;
      const inside = wrong.filter(([a, b]) => a < end && b > at).map(([a, b]) => [Math.max(a, at) - at, Math.min(b, end) - at, "false"]);
      at = end;
      const said = prose("span", "text", text.trimEnd(), inside);
      const line = make("li", mark ?? "", make("div", "", said, mark ? make("small", "note", MARKS[mark]) : null));
      const meter = make("meter");
      if (q !== null) {
        meter.value = q;
        meter.title = `Q ${q.toFixed(2)}`;
      }
      const sign = advantage > 0 ? "+" : advantage < 0 ? "−" : "";
      line.append(
        q === null ? make("span") : meter,
        make("span", "num", q === null ? "" : q.toFixed(2)),
        make("span", "num", advantage === null ? "" : `${sign}${Math.abs(advantage).toFixed(2)}`),
      );
      list.append(line);
    }
    return list;
  }

  // Why a path was kept or not, where its verdict does not say it all.
  function why(sample, verdict) {
    if (verdict === "wrong_answer") return sample.x ? "and a false equation" : "";
    if (verdict === "wrong_equation") return sample.f === "false_equation" ? "stopped there" : "its answer is right";
    if (verdict !== "correct") return "";
    if (!sample.w) return sample.k ? "kept" : "not kept";
    const [code, other, own, against, replaced] = sample.w;
    const lost = replaced === null ? "" : `, then #${replaced} was farther`;
    switch (code) {
      case "first":
        return replaced === null ? "kept: the first of its list" : `not kept: the first of its list${lost}`;
      case "farther":
        return replaced === null
          ? `kept: ${own} edits from the other lists’ paths, #${other} had ${against}`
          : `not kept: farther than #${other} (${own} edits against ${against})${lost}`;
      case "nearer":
        return `not kept: ${own} edits from the other lists’ paths, #${other} had ${against}`;
      case "alone":
        return `not kept: same list as #${other}, and no other list yet to be farther from`;
      case "same_text":
        return `not kept: the very text of #${other}`;
      case "kept":
        return "kept for its list";
      default:
        return other === null ? "not kept by the run" : `not kept: #${other} is kept of this list`;
    }
  }

  // Getting about

  function step(by) {
    const at = state.found.indexOf(state.open);
    const next = state.found[at < 0 ? 0 : at + by];
    if (next === undefined) return;
    while (state.found.indexOf(next) >= state.made && state.made < state.found.length) more();
    location.hash = `#q/${state.set}/${next}`;
  }

  function leave() {
    document.body.classList.remove("reading");
    const link = $("list").querySelector(`[data-question="${state.open}"]`);
    state.open = -1;
    $("question").replaceChildren();
    for (const each of $("list").querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
    history.replaceState(null, "", "#questions");
    (link ?? $("query")).focus();
  }

  async function enter(set) {
    state.set = set;
    state.open = -1;
    $("run").value = set;
    $("question").replaceChildren();
    state.index = await unpack(data.sets[set].index);
    await search();
  }

  async function follow() {
    const named = /^#q\/(\d+)\/(\d+)$/.exec(location.hash);
    if (!named) return;
    const [set, question] = [Number(named[1]), Number(named[2])];
    if (!data.sets[set]) return;
    if (set !== state.set) await enter(set);
    await show(question, true);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape") {
      if (event.target === $("query") && $("query").value) return; // the browser empties the box
      if (typing) event.target.blur();
      else if (state.open >= 0) leave();
      return;
    }
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      document.body.classList.remove("reading");
      $("query").focus();
      $("query").select();
    } else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });

  let pause = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(search, 120);
  });
  $("finder").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["deep", "verdict", "solved", "order"]) $(name).addEventListener("change", search);
  $("run").addEventListener("change", () => {
    history.replaceState(null, "", "#questions");
    document.body.classList.remove("reading");
    enter(Number($("run").value));
  });
  $("list").addEventListener("scroll", () => {
    const list = $("list");
    if (list.scrollTop + list.clientHeight > list.scrollHeight - 400) more();
  });
  window.addEventListener("hashchange", follow);

  const present = data.verdicts.filter((name, i) => data.sets.some((set) => set.verdicts[i]));
  $("verdict").append(...present.map((name) => new Option(WORDS[name][1], name)));
  $("run").append(...data.sets.map((set, i) => new Option(set.name, i)));
  $("run-label").hidden = data.sets.length < 2;
  browser.hidden = false;
  if (!("DecompressionStream" in window)) {
    say("This browser cannot unpack the questions: Chrome 80, Firefox 113 or Safari 16.4 can.");
    return;
  }
  enter(0).then(follow);
})();
