// SPDX-License-Identifier: Apache-2.0
// The HTTP contract as these pages use it. All addresses are relative to this file, so that a proxy may put
// Orthanc under any path, and a viewer that is no page of ours (OHIF) may load it.

const PLUGIN = new URL("../", import.meta.url);
const ORTHANC = new URL("../../", import.meta.url);

/** An answer that is not a success; `status` is 0 where there was no answer at all. */
export class Failure extends Error {
    constructor(status, code, message, retryAfter = null) {
        super(message);
        this.status = status;
        this.code = code;
        this.retryAfter = retryAfter;
    }

    /** Whether the same request may succeed later. */
    get passes() {
        return this.status === 0 || this.status === 429 || this.status >= 500;
    }
}

function seconds(response) {
    const text = response.headers.get("Retry-After");
    return text === null ? null : Number.parseFloat(text) || 0;
}

/** Return the JSON of an answer, or null where it is none (a proxy's own page, say). */
async function json(response) {
    try {
        return await response.json();
    } catch (error) {
        if (error instanceof SyntaxError) return null;
        throw error;
    }
}

async function send(url, options) {
    let response;
    let value;
    try {
        response = await fetch(url, { cache: "no-store", ...options });
        value = await json(response);
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure(0, "unreachable", String(error.message));
    }
    if (response.ok && value !== null) return { value, retryAfter: seconds(response) };
    throw refusal(response, value);
}

/** Return an answer that is not what was asked for as the failure that its JSON, if it has any, says it is. */
function refusal(response, value) {
    const code = value?.code ?? `http_${response.status}`;
    return new Failure(response.ok ? 502 : response.status, code, value?.error ?? "", seconds(response));
}

/** Get the bytes of a picture. */
export async function getPicture(url) {
    let response;
    let value;
    try {
        response = await fetch(url);
        if (response.ok) return await response.blob();
        value = await json(response);
    } catch (error) {
        throw new Failure(0, "unreachable", String(error.message));
    }
    throw refusal(response, value);
}

function post(path, body) {
    const headers = { "Content-Type": "application/json" };
    return send(new URL(path, PLUGIN), { method: "POST", headers, body: JSON.stringify(body) });
}

/**
 * Get one request; with `version` the answer is held until the request differs from it.
 * @returns {Promise<{request: Object, retryAfter: number|null}>}
 */
export async function getRequest(id, { version = null, wait = 25, signal = null } = {}) {
    const url = new URL(`requests/${encodeURIComponent(id)}`, PLUGIN);
    if (version !== null) {
        url.searchParams.set("wait", String(wait));
        url.searchParams.set("version", version);
    }
    const { value, retryAfter } = await send(url, { signal });
    return { request: value.request, retryAfter };
}

/** Get one page of the list. */
export async function listRequests(filters, signal = null) {
    const url = new URL("requests/", PLUGIN);
    for (const [name, value] of Object.entries(filters)) if (value) url.searchParams.set(name, String(value));
    const { value, retryAfter } = await send(url, { signal });
    return { ...value, retryAfter };
}

/** Get the workers that the server has heard of. */
export async function listWorkers(signal = null) {
    return (await send(new URL("workers", PLUGIN), { signal })).value.workers;
}

/** Get the models that living workers offer and the site permits. */
export async function listModels(signal = null) {
    return (await send(new URL("models", PLUGIN), { signal })).value.models;
}

/**
 * Ask for the analysis of a slide.
 * @param {Object} wanted what `POST /pathology/analyze` takes
 * @returns {Promise<{request: Object, warnings: string[]}>} the existing request where the same was asked for before
 */
export async function analyse(wanted) {
    return (await post("analyze", wanted)).value;
}

/** Cancel, retry, withdraw or review a request; return it as it is then. */
export async function act(id, action, body = {}) {
    const { value } = await post(`requests/${encodeURIComponent(id)}/${action}`, body);
    return value.request;
}

/** Return the address of an artifact. */
export function artifactUrl(id, name) {
    return new URL(`requests/${encodeURIComponent(id)}/artifacts/${encodeURIComponent(name)}`, PLUGIN).href;
}

/** Return the address of all patches of a result as a file: geojson, csv or h5. */
export function exportUrl(id, form) {
    return new URL(`requests/${encodeURIComponent(id)}/export/${form}`, PLUGIN).href;
}

/** Return the address of a resource of Orthanc itself. */
export function orthancUrl(path) {
    return new URL(path, ORTHANC).href;
}

/** Return what Orthanc has under a DICOM UID: its ids and types. */
export async function lookUp(uid) {
    const headers = { "Content-Type": "text/plain" };
    return (await send(orthancUrl("tools/lookup"), { method: "POST", headers, body: uid })).value;
}

/** Get a JSON resource of Orthanc itself. */
export async function orthanc(path, signal = null) {
    return (await send(orthancUrl(path), { signal })).value;
}
