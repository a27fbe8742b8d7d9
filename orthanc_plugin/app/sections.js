// SPDX-License-Identifier: Apache-2.0
// The parts of a result as elements: values in, elements out.

import { bar, definitions, element } from "./dom.js";
import { bytes, dicomDate, duration, moment, number, percent, personName, shareDone, significant, stateWords } from "./format.js";
import { hasWord, t, word } from "./i18n.js";
import { named } from "./slide_facts.js";

/** Return who and what the slide is: the line that keeps people from reading another slide's result. */
export function identity(request, facts) {
    const container = facts?.container || named(request.result?.slide?.container_id);
    const name = personName(facts?.patient.PatientName);
    // Where a slide is stored without a name, the name is made of the id: told once, as the id.
    const isIdAgain = name !== "" && name === facts?.patient.PatientID;
    return {
        container: container || t("identity.no_container"),
        details: definitions(
            [
                [t("identity.patient"), isIdAgain ? "" : name || t("identity.unknown")],
                [t("identity.patient_id"), facts?.patient.PatientID || t("identity.unknown")],
                [t("identity.accession"), facts?.study.AccessionNumber],
                [t("identity.study_date"), dicomDate(facts?.study.StudyDate) || t("identity.unknown")],
            ],
            "dl.facts.identity",
        ),
    };
}

/** Return the sentences that say a result is about another slide than the one shown; empty when all fits. */
export function contradictions(request, facts, levels) {
    const slide = request.result?.slide;
    if (!slide) return [];
    const found = [];
    if (slide.series_instance_uid && slide.series_instance_uid !== request.series_instance_uid) {
        found.push(t("alarm.series", { uid: slide.series_instance_uid }));
    }
    if (named(slide.container_id) && facts?.container && slide.container_id !== facts.container) {
        found.push(t("alarm.container", { result: slide.container_id, now: facts.container }));
    }
    if (levels && slide.width && (levels[0].width !== slide.width || levels[0].height !== slide.height)) {
        found.push(t("alarm.size"));
    }
    return found;
}

/** Return the class and its probability in large letters, or in words why there is none. */
export function headline(result, properties = {}) {
    const abstained = result.quality?.status === "abstained";
    const name = abstained ? t("verdict.abstained") : result.predicted_class;
    const share = result.probabilities?.[result.predicted_class];
    return element(
        `p.verdict${abstained ? ".abstained" : ""}`,
        properties,
        name ?? t("verdict.none"),
        !abstained && share !== undefined ? element("span.share", {}, percent(share, 1)) : null,
    );
}

function inWords({ status, summary, ...rest }) {
    if (status !== "completed" || !summary) return stateWords({ status, ...rest });
    if (summary.quality?.status === "abstained") return t("verdict.abstained");
    const name = summary.predicted_class;
    const share = summary.probabilities?.[name];
    return [name ?? t("verdict.none"), share === undefined ? "" : percent(share, 1)].filter(Boolean).join(" ");
}

/** Return the sentence that names another analysis of the slide, and what leads to it if anything does. */
export function besideThis(request, other, way = null) {
    const newer = other.status === "completed" ? "newer_result" : "newer";
    const kind = other.created < request.created ? "earlier" : newer;
    return element(
        "p.beside",
        {},
        element("strong", {}, t(`beside.${kind}`)),
        ` ${inWords(other)} · ${moment(other.created)} `,
        way,
    );
}

/** Return the verdict under its title. */
export function verdict(result) {
    return [element("h2", {}, t("verdict.title")), headline(result, { id: "predicted-class" })];
}

function probability(name, share, chosen) {
    return element(
        `li${chosen ? ".chosen" : ""}`,
        {},
        element("span.name", {}, name),
        element("span.value", {}, percent(share, 1)),
        bar(share),
    );
}

/** Return the probabilities as bars, the likeliest first. */
export function probabilities(result) {
    const entries = Object.entries(result.probabilities ?? {}).sort(([, a], [, b]) => b - a);
    if (!entries.length) return [];
    // Where the model abstains, no class may stand out.
    const chosen = result.quality?.status === "abstained" ? null : result.predicted_class;
    return [
        element("h3", {}, t("probabilities.title")),
        element(
            "ul.bars",
            { id: "probabilities" },
            entries.map(([name, share]) => probability(name, share, name === chosen)),
        ),
    ];
}

function sentencesOf(flags) {
    return [...new Set(flags)].map((flag) => word("flag", flag));
}

/**
 * Return the quality and every flag in words. What the server notes beside the result (no approval, a slide that
 * was replaced) is a reason to read with care, but none why the worker limits its answer or gives none.
 */
export function quality(request) {
    const { status = "ok", flags = [], reason } = request.result?.quality ?? {};
    const noted = request.flags ?? [];
    if (status === "ok") return reservations(status, sentencesOf([...flags, ...noted]), reason);
    const notes = sentencesOf(noted).map((sentence) => element("p", {}, sentence));
    return [
        reservations(status, sentencesOf(flags), reason),
        notes.length ? element("div.quality.careful", { id: "notes" }, notes) : null,
    ];
}

// What the page says above in its own words; the rest of the worker's sentence comes in English only.
const OPENING = /^(The model abstains|Read this with care): /;

function detailed(reason) {
    const sentence = element("span", { lang: "en" }, reason.replace(OPENING, ""));
    return element("p.reason.muted", {}, t("quality.detail"), " ", sentence);
}

function reservations(status, sentences, reason) {
    const fine = status === "ok" && !sentences.length && !reason;
    return element(
        `div.quality.${fine ? "fine" : "careful"}`,
        { id: "quality" },
        element("strong", {}, fine ? t("quality.fine") : word("quality", status === "ok" ? "flagged" : status)),
        sentences.length ? element("ul", {}, sentences.map((sentence) => element("li", {}, sentence))) : null,
        reason ? detailed(reason) : null,
    );
}

/** Return how much of the slide was looked at. */
export function extent(result) {
    const { slide = {}, patches = {} } = result;
    const size = slide.width ? `${number(slide.width)} × ${number(slide.height)} px` : "";
    const mpp = slide.mpp ? t("extent.mpp", { mpp: significant(slide.mpp[0]) }) : "";
    const area = patches.tissue_mm2 ? t("extent.area", { area: significant(patches.tissue_mm2) }) : "";
    return definitions([
        [t("extent.slide"), [size, mpp].filter(Boolean).join(", ")],
        [t("extent.patches"), patches.count ? [number(patches.count), area].filter(Boolean).join(", ") : ""],
    ]);
}

function code(text) {
    return text ? element("code", {}, text) : "";
}

/** Return which model made the result. */
export function model(result) {
    const { model: one = {} } = result;
    return definitions([
        [t("provenance.model"), [one.name, one.version].filter(Boolean).join(" ")],
        [t("provenance.model_sha256"), code(one.sha256)],
        [t("provenance.encoder"), one.encoder?.name],
        [t("provenance.encoder_sha256"), code(one.encoder?.sha256)],
        [t("provenance.intended_use"), one.intended_use],
        [t("provenance.use"), one.use ? word("use", one.use) : ""],
    ]);
}

function resultLink(request) {
    if (!request) return "";
    return element("a", { href: `result.html?request=${encodeURIComponent(request)}` }, code(request));
}

/** Return by whom, when, and on which content it was made. */
export function run(request) {
    const result = request.result ?? {};
    return definitions([
        [t("provenance.request"), code(request.request_id)],
        [t("provenance.series"), code(request.series_instance_uid)],
        [t("provenance.submitted"), `${moment(request.created)} · ${request.created_by ?? ""}`],
        [t("provenance.worker"), request.worker_id],
        [t("provenance.repeats"), resultLink(request.predecessor)],
        [t("provenance.attempts"), request.attempts > 1 ? request.attempts : ""],
        ...Object.entries(result.software ?? {}).map(([name, value]) => [word("software", name), String(value)]),
        [t("provenance.fingerprint"), code(result.slide?.fingerprint ?? request.fingerprint)],
    ]);
}

/** Return the time that each stage took. */
export function timings(result) {
    const entries = Object.entries(result.timings_s ?? {});
    if (!entries.length) return [];
    const longest = Math.max(...entries.map(([, seconds]) => seconds), 0.001);
    return [
        element("h3", {}, t("timings.title")),
        element(
            "ul.bars.thin",
            {},
            entries.map(([stage, seconds]) =>
                element(
                    "li",
                    {},
                    element("span.name", {}, word("stage", stage)),
                    element("span.value", {}, duration(seconds)),
                    bar(seconds / longest),
                ),
            ),
        ),
    ];
}

/** Return the verdict in the page's words, with the person's own behind it. */
function verdictOf(detail) {
    const [, kind, comment] = /^([a-z]+)(.*)$/s.exec(detail);
    return `${word("review", kind)}${comment}`;
}

/** Return a detail; one that begins with a verdict or the code of an error has it in the page's words. */
function detailOf(event, detail) {
    if (event === "reviewed") return verdictOf(detail);
    const [, kind, message] = /^([a-z_]+): (.*)$/s.exec(detail) ?? [];
    if (!hasWord("error", kind)) return detail;
    const known = t(`error.${kind}`);
    return known === message ? known : [`${known} `, element("span", { lang: "en" }, message)];
}

/** Return what has happened to the request, the latest last. */
export function history(request) {
    return element(
        "ol.history",
        {},
        (request.history ?? []).map(({ at, event, by, detail }) =>
            element(
                "li",
                {},
                element("time", { datetime: at }, moment(at)),
                element("span", {}, word("event", event), by ? ` · ${by}` : ""),
                detail ? element("span.detail", {}, detailOf(event, detail)) : null,
            ),
        ),
    );
}

// What each form is made of, and what the people who want it call it.
const FORMS = [
    ["geojson", "attention.npz", "GeoJSON (QuPath)"],
    ["csv", "attention.npz", "CSV"],
    ["h5", "attention.h5", "HDF5 (CLAM)"],
];

/** Return links to all patches of a result in the forms that other programs read. */
export function exports(request, address) {
    const stored = new Set((request.artifacts ?? []).map(({ name }) => name));
    return FORMS.filter(([, needed]) => stored.has(needed)).map(([form, , label]) =>
        element("a.button", { href: address(form), id: `export-${form}`, download: "" }, label),
    );
}

/** Return links to the files of the result, and the patches for other programs. */
export function files(request, artifact, exported) {
    const offered = exports(request, exported);
    const shown = (request.artifacts ?? []).filter(({ name }) => !/^patch-\d+\.jpg$/.test(name));
    return [
        element("h3", {}, t("files.title")),
        element(
            "ul.files",
            {},
            shown.map(({ name, size }) =>
                element("li", {}, element("a", { href: artifact(name), target: "_blank", rel: "noopener" }, name), ` ${bytes(size)}`),
            ),
        ),
        offered.length ? element("p.muted", {}, t("files.export")) : null,
        element("div.buttons", {}, offered),
    ];
}

function earlierFailure(request) {
    return element(
        "p.muted",
        {},
        t("progress.again", { time: moment(request.not_before ?? request.updated) }),
        ` ${request.error.message || word("error", request.error.code)}`,
    );
}

/** Return why a request waits, in the language of the pages where they have words for it. */
export function notes(request) {
    const sentence = ({ code: kind, message, offered }) => {
        if (!hasWord("note", kind)) return element("p.note", { lang: "en" }, message);
        return element("p.note", {}, t(`note.${kind}`), offered.length ? ` ${t("note.offered", { names: offered.join(", ") })}` : "");
    };
    return (request.notes ?? []).map(sentence);
}

/** Return how far a running request is. */
export function progress(request) {
    const share = shareDone(request);
    const running = request.status === "processing" || request.status === "publishing";
    return element(
        "div.progress",
        { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(100 * share)) },
        element(
            "p.stage",
            { id: "stage" },
            running && request.stage ? word("stage", request.stage) : stateWords(request),
            running ? element("strong", {}, ` ${percent(share)}`) : null,
        ),
        running ? bar(share, {}) : null,
        request.model && !running ? element("p.muted", {}, t("progress.model", { model: request.model })) : null,
        notes(request),
        request.waits_for === "slide" ? element("p.muted", {}, t("progress.arriving")) : null,
        request.detail && running ? element("p.muted", {}, request.detail) : null,
        request.worker_id && running ? element("p.muted", {}, t("progress.worker", { worker: request.worker_id })) : null,
        element("p.muted", {}, t("progress.since", { time: moment(request.created) })),
        request.error && !running ? earlierFailure(request) : null,
    );
}

/** Return why there is no result, in words: failed, cancelled, withdrawn. */
export function ending(request) {
    const last = (name) => [...(request.history ?? [])].reverse().find(({ event }) => event === name);
    const event = last(request.status);
    const who = event ? t("ending.by", { by: event.by || "–", time: moment(event.at) }) : "";
    const reason = request.status === "withdrawn" ? event?.detail : request.error?.message;
    const known = request.status === "failed" && request.error ? word("error", request.error.code) : "";
    return [
        element("h2", {}, t(`ending.${request.status}`)),
        known && known !== reason ? element("p.lead", {}, known) : null,
        reason ? element("p.reason", {}, reason) : null,
        element("p.muted", {}, who),
        request.attempts > 1 ? element("p.muted", {}, t("ending.attempts", { count: request.attempts })) : null,
    ];
}
