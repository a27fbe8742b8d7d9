// SPDX-License-Identifier: Apache-2.0
// What a request says by its members, and which of a slide's requests a page shows.

const OPEN = new Set(["pending", "processing", "publishing"]);

/** Whether work is still to be done on a request. */
export function isOpen(request) {
    return OPEN.has(request.status);
}

/** Whether a result went with its slide's first storing: its files are gone, so nobody need be asked about it. */
export function isLost({ flags }) {
    return (flags ?? []).includes("source_replaced");
}

/** Return what shows whether an answer is another one; why a request waits is no part of its version. */
export function tells(request) {
    return JSON.stringify([request?.version, request?.notes]);
}

/** The latest request that says something about the slide: a withdrawn or cancelled one does so only alone. */
function latest(requests) {
    const inOrder = newestFirst(requests);
    return inOrder.find(({ status }) => !["withdrawn", "cancelled"].includes(status)) ?? inOrder[0] ?? null;
}

function newestFirst(requests) {
    return [...requests].sort((a, b) => b.created.localeCompare(a.created));
}

function hasResult(request) {
    return request.status === "completed" && !isLost(request);
}

/** The analysis by which a slide is known: the latest that is under way or has a result, else the latest there is. */
export function standing(requests) {
    return newestFirst(requests).find((one) => isOpen(one) || hasResult(one)) ?? latest(requests);
}

/**
 * Another analysis of the slide that a reader of this one has to know of: a newer one, else, where this one
 * has no result, the latest that has.
 */
export function beside(request, requests) {
    const others = newestFirst(requests).filter(({ request_id: id }) => id !== request.request_id);
    const newer = others.filter(({ created }) => created > request.created);
    return (
        newer.find(hasResult) ??
        (hasResult(request) ? null : others.find(hasResult)) ??
        newer.find(({ status }) => isOpen({ status }) || status === "failed") ??
        null
    );
}
