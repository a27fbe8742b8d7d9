// SPDX-License-Identifier: Apache-2.0
// The result page: follows one request from waiting to reviewed.

import { artifactUrl, exportUrl, getRequest, listRequests, orthancUrl } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { laterWords, refusalWords } from "./failures.js";
import { follow } from "./follow.js";
import { languageSwitch, t, translatePage, word } from "./i18n.js";
import { showReview, stateButtons } from "./opinions.js";
import { showPatches } from "./patches.js";
import { hasFalseColours, loadLevels } from "./pyramid.js";
import { beside, isOpen, standing, tells } from "./requests.js";
import * as sections from "./sections.js";
import { slideFacts } from "./slide_facts.js";
import { showHeat, showSlide } from "./slide_panel.js";

// A finished request changes only by a person: it takes no place in the server's long polls.
const LOOK_AGAIN_S = 60;
const AT_ONCE_S = 1;
const MOST_LISTED = 1000;

const address = new URLSearchParams(location.search);
let requestId = address.get("request") ?? "";
// `shown` and `heated`: the request whose slide and whose overlay are there. `lacking`: what of it never will be.
const page = { request: null, facts: null, shown: null, heated: null, lacking: [""], levels: null, others: [] };

function notice(text, kind = "notice") {
    const target = byId("notice");
    target.className = `banner ${kind}`;
    target.textContent = text;
    target.hidden = !text;
}

function told(error) {
    notice(refusalWords(error), "alarm");
}

/** Say why a person's action was refused, and show what somebody else has made of the request meanwhile. */
async function refused(error) {
    told(error);
    if (![404, 409, 410].includes(error.status)) return;
    try {
        const { request } = await getRequest(requestId);
        await changed(request);
    } catch (gone) {
        failed(gone, 0);
    }
}

function showIdentity(request, facts) {
    const { container, details } = sections.identity(request, facts);
    byId("container").textContent = container;
    fill(byId("identity"), details);
    document.title = `${container} · ${t("result.kicker")}`;
    const explorer = byId("explorer");
    explorer.href = orthancUrl(`app/explorer.html#series?uuid=${encodeURIComponent(request.series)}`);
    explorer.hidden = false;
}

function showState() {
    const { request } = page;
    const target = byId("state");
    target.hidden = request.status === "completed";
    target.dataset.status = request.status;
    if (target.hidden) return;
    fill(
        target,
        isOpen(request) ? sections.progress(request) : sections.ending(request),
        element("div.buttons.screen-only", {}, stateButtons(request, changed, refused)),
    );
}

/** Another analysis of the slide may say more than this one, or something else. */
function showBeside() {
    const { request, others } = page;
    const other = beside(request, others);
    const target = byId("beside");
    target.hidden = other === null;
    if (other === null) return;
    const address = `?request=${encodeURIComponent(other.request_id)}`;
    fill(target, sections.besideThis(request, other, element("a", { href: address }, t("beside.show"))));
}

/** What a review changes: shown anew at each answer. */
function showOpinions() {
    showReview(byId("review"), page.request, changed, refused);
    fill(byId("history"), sections.history(page.request));
    byId("history-part").hidden = false;
}

function showFindings() {
    const { request } = page;
    const { result } = request;
    byId("demonstration").hidden = result.model?.use !== "demonstration";
    fill(byId("verdict"), sections.verdict(result), sections.quality(request));
    fill(byId("shares"), sections.probabilities(result), sections.extent(result));
    fill(byId("model"), sections.model(result));
    fill(byId("run"), sections.run(request));
    fill(byId("timings"), sections.timings(result));
    const id = request.request_id;
    const links = [(name) => artifactUrl(id, name), (form) => exportUrl(id, form)];
    fill(byId("files"), sections.files(request, ...links));
}

function alarm(sentences) {
    const target = byId("alarm");
    target.hidden = !sentences.length;
    fill(
        target,
        element("strong", {}, t("alarm.title")),
        element("ul", {}, sentences.map((sentence) => element("li", {}, sentence))),
    );
    return sentences.length > 0;
}

/** Show the slide and its patches; nothing is laid over a slide that the result is not about. */
async function showSlideAndPatches() {
    const { request, facts } = page;
    const levels = await loadLevels(request.series, facts?.tags ?? []);
    page.levels = levels;
    if (alarm(sections.contradictions(request, facts, levels))) {
        byId("result").classList.add("untrusted");
        page.heated = request.request_id;
        return;
    }
    const view = await showSlide(request, levels);
    byId("slide").hidden = view === null;
    if (view === null) lack(t("slide.none"));
    const why = hasFalseColours(facts?.tags ?? []) ? "slide.false_colours" : "slide.no_tiles";
    byId("no-detail").textContent = view && levels === null ? t(why) : "";
    const jump = (index) => {
        view?.jumpTo(index);
        byId("slide").scrollIntoView({ block: "nearest", behavior: "smooth" });
    };
    await showPatches(byId("strip"), request, levels, jump);
}

async function layHeat() {
    await showHeat(page.request, page.levels);
    document.body.dataset.pictures = "shown";
}

/** Say what of the pictures there is not, for as long as the result is shown. */
function lack(...told) {
    page.lacking = told;
    notice(...told);
}

/** Show a part of the pictures once; one that may come later is asked for again at the next look. */
async function once(part, show) {
    const { request_id: id } = page.request;
    // A review or another look must not throw away where the person has zoomed to.
    if (page[part] === id) return;
    page[part] = id;
    try {
        await show();
    } catch (error) {
        if (error.passes) {
            page[part] = null;
            throw error;
        }
        lack(refusalWords(error), "alarm");
    }
}

async function showPictures() {
    await once("shown", showSlideAndPatches);
    await once("heated", layHeat);
}

function hasResult({ status, result }) {
    return status === "completed" && result !== null;
}

function showResult() {
    const shown = hasResult(page.request);
    byId("result").hidden = !shown;
    if (!shown) {
        byId("demonstration").hidden = true;
        Object.assign(page, { shown: null, heated: null, lacking: [""] });
        return;
    }
    showFindings();
}

async function changed(request) {
    page.request = request;
    if (page.facts === null) {
        // Without Orthanc's own word the page still names the slide by what the request says.
        page.facts = await slideFacts(request.series).catch(() => null);
    }
    showIdentity(request, page.facts);
    showState();
    showOpinions();
    byId("review").hidden = request.status !== "completed";
    showResult();
    document.body.dataset.status = request.status;
}

/** Look for other analyses of the slide; without an answer the page shows those that it knew of. */
async function lookBeside(signal) {
    const { series } = page.request;
    const found = await listRequests({ series, limit: MOST_LISTED }, signal).catch((error) => {
        if (error.name === "AbortError") throw error;
        return { requests: page.others };
    });
    page.others = found.requests;
    showBeside();
}

/** A page that was opened for a slide (`?series=`) shows what stands for it, and says so in its address. */
async function findRequest(signal) {
    const { requests } = await listRequests({ series: address.get("series"), limit: MOST_LISTED }, signal);
    requestId = standing(requests)?.request_id ?? "";
    if (requestId) history.replaceState(null, "", `?request=${encodeURIComponent(requestId)}`);
}

/** A slide that nobody has had analysed is named all the same, and Orthanc, where that is done, a click away. */
async function showUnanalysed(series, signal) {
    const facts = await slideFacts(series, { most: 1, signal }).catch((error) => {
        if (error.status === 404) return null;
        throw error;
    });
    if (facts === null) {
        byId("explorer").hidden = true;
        fill(byId("identity"));
        nothing(t("notice.no_series"), "alarm");
        return;
    }
    showIdentity({ series }, facts);
    // Buttons of other programs lead here from any series.
    if (facts.tags.some(({ Modality: modality }) => modality === "SM")) notice(t("panel.none"));
    else nothing(t("error.not_a_slide"), "notice");
}

async function ask(signal) {
    if (!requestId) await findRequest(signal);
    if (!requestId) {
        await showUnanalysed(address.get("series"), signal);
        return LOOK_AGAIN_S;
    }
    const open = page.request !== null && isOpen(page.request);
    const version = open ? page.request.version : null;
    const { request, retryAfter } = await getRequest(requestId, { version, signal });
    notice(...page.lacking);
    const news = tells(page.request) !== tells(request);
    if (news) await changed(request);
    if (news || !isOpen(request)) await lookBeside(signal);
    if (hasResult(page.request)) await showPictures();
    if (!isOpen(request)) return LOOK_AGAIN_S;
    return news ? 0 : Math.max(retryAfter ?? 0, AT_ONCE_S);
}

/** Say in words why nothing comes; return whether it is worth asking again. */
function failed(error, pause) {
    if (error.passes) {
        notice(laterWords(error, pause));
        return true;
    }
    if (page.request === null || error.status === 410 || error.status === 404) {
        byId("result").hidden = true;
        byId("state").hidden = true;
        byId("beside").hidden = true;
        byId("demonstration").hidden = true;
        if (page.request === null) byId("container").textContent = t("result.no_slide");
    }
    notice(word("error", error.code), "alarm");
    document.body.dataset.status = error.code;
    return false;
}

function nothing(sentence, kind) {
    byId("container").textContent = t("result.no_slide");
    notice(sentence, kind);
}

function start() {
    translatePage();
    fill(byId("languages"), languageSwitch());
    byId("print").onclick = () => window.print();
    if (!requestId && !address.get("series")) {
        nothing(t("notice.no_request"), "alarm");
        return;
    }
    follow(ask, failed);
}

start();
