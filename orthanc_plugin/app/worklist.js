// SPDX-License-Identifier: Apache-2.0
// The worklist page: every request, live while somebody looks.

import { listWorkers, orthancUrl } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { laterWords, refusalWords } from "./failures.js";
import { follow } from "./follow.js";
import { moment } from "./format.js";
import { languageSwitch, t, translatePage, word } from "./i18n.js";
import { Queue } from "./queue.js";
import { isOpen } from "./requests.js";
import { slideFacts } from "./slide_facts.js";
import { Row } from "./worklist_row.js";

const EVERY_S = 4;
// A person's decisions on finished requests, and the workers, are looked at once in so many rounds.
const ROUNDS = 15;
const ROWS_AT_FIRST = 100;
const FACTS_AT_ONCE = 2;

const FILTERS = {
    all: () => true,
    open: isOpen,
    completed: ({ status }) => status === "completed",
    failed: ({ status }) => status === "failed",
    cancelled: ({ status }) => status === "cancelled",
    withdrawn: ({ status }) => status === "withdrawn",
};

const queue = new Queue();
const rows = new Map();
const facts = new Map();
const page = { filter: initialFilter(), shown: ROWS_AT_FIRST, round: 0 };

function initialFilter() {
    const named = new URLSearchParams(location.search).get("state");
    return named in FILTERS ? named : "all";
}

function notice(text, kind = "notice") {
    const target = byId("notice");
    target.className = `banner ${kind}`;
    target.textContent = text;
    target.hidden = !text;
}

/** Slides are named by Orthanc: asked once for each, a few at a time, only for rows in view. */
const naming = { waiting: [], running: 0 };

async function nameNext() {
    if (naming.running >= FACTS_AT_ONCE || !naming.waiting.length) return;
    naming.running += 1;
    const row = naming.waiting.shift();
    const { series } = row.request;
    if (!facts.has(series)) facts.set(series, slideFacts(series, { most: 1 }).catch(() => null));
    const known = await facts.get(series);
    if (known !== null) row.showFacts(known);
    naming.running -= 1;
    nameNext();
}

const inView = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        inView.unobserve(target);
        naming.waiting.push(rows.get(target.dataset.request));
        nameNext();
    }
});

function rowOf(request) {
    const known = rows.get(request.request_id);
    if (known) return known;
    const row = new Row({ changed, told });
    rows.set(request.request_id, row);
    return row;
}

function showFilters() {
    const all = queue.requests;
    const target = byId("filters");
    if (!target.children.length) {
        fill(
            target,
            Object.keys(FILTERS).map((name) =>
                element(
                    "button",
                    { type: "button", "data-filter": name, onclick: () => choose(name) },
                    name === "all" || name === "open" ? t(`worklist.${name}`) : t(`status.${name}`),
                    element("span.count"),
                ),
            ),
        );
    }
    for (const button of target.children) {
        const name = button.dataset.filter;
        button.setAttribute("aria-pressed", String(name === page.filter));
        button.querySelector(".count").textContent = all.filter(FILTERS[name]).length;
    }
}

function choose(name) {
    page.filter = name;
    page.shown = ROWS_AT_FIRST;
    const address = new URL(location.href);
    address.searchParams.set("state", name);
    history.replaceState(null, "", address);
    show();
}

/** Bring the rows into order; rows that are in their place already are not moved, so that focus stays. */
function place(wanted) {
    const body = byId("rows");
    wanted.forEach((row, index) => {
        if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    });
    while (body.children.length > wanted.length) body.lastElementChild.remove();
}

function show() {
    const now = Date.now();
    const matching = queue.requests.filter(FILTERS[page.filter]);
    const wanted = matching.slice(0, page.shown).map((request) => {
        const row = rowOf(request);
        row.show(request, now);
        return row;
    });
    place(wanted);
    for (const row of wanted) {
        if (row.asked) continue;
        row.asked = true;
        inView.observe(row.element);
    }
    showFilters();
    byId("older").hidden = matching.length <= page.shown;
    const none = byId("none");
    none.hidden = matching.length > 0;
    none.textContent = t(page.filter === "all" ? "worklist.none" : "worklist.none_matching");
    document.body.dataset.ready = "true";
}

/** Ask again for the slides whose name did not come. */
function forgetUnnamed() {
    for (const row of rows.values()) {
        if (row.facts !== null || !row.asked) continue;
        row.asked = false;
        facts.delete(row.request.series);
    }
}

async function showWorkers(signal) {
    const alive = (await listWorkers(signal)).filter((worker) => worker.alive);
    const names = alive.map((worker) => worker.worker_id).join(", ");
    byId("workers").textContent = names ? t("worklist.workers", { names }) : t("worklist.no_workers");
}

function changed(request) {
    queue.take(request);
    show();
}

function told(error) {
    notice(refusalWords(error), "alarm");
}

async function ask(signal) {
    if (page.round % ROUNDS === 0) {
        await queue.readAll(signal);
        await showWorkers(signal);
        forgetUnnamed();
    } else {
        await queue.readNews(signal);
    }
    page.round += 1;
    notice("");
    show();
    byId("updated").textContent = t("worklist.updated", { time: moment(new Date().toISOString()) });
    return EVERY_S;
}

function failed(error, pause) {
    page.round = 0; // whatever happened meanwhile is read in full
    if (!error.passes) {
        notice(word("error", error.code), "alarm");
        return false;
    }
    notice(laterWords(error, pause));
    return true;
}

translatePage();
document.title = t("worklist.title");
fill(byId("languages"), languageSwitch());
byId("explorer").href = orthancUrl("app/explorer.html");
byId("older").onclick = () => {
    page.shown += ROWS_AT_FIRST;
    show();
};
follow(ask, failed);
