// SPDX-License-Identifier: Apache-2.0
// Ask again and again without hammering: only while somebody looks, and ever slower while nothing answers.

const LONGEST_PAUSE_S = 30;
const JITTER = 0.3;

function visible() {
    if (!document.hidden) return Promise.resolve();
    return new Promise((resolve) => {
        const look = () => {
            if (document.hidden) return;
            document.removeEventListener("visibilitychange", look);
            resolve();
        };
        document.addEventListener("visibilitychange", look);
    });
}

/** Wait; a page that comes back into view does not wait any longer. */
function pause(seconds) {
    return new Promise((resolve) => {
        const done = () => {
            clearTimeout(timer);
            document.removeEventListener("visibilitychange", look);
            resolve();
        };
        const look = () => {
            if (!document.hidden) done();
        };
        const timer = setTimeout(done, seconds * 1000);
        document.addEventListener("visibilitychange", look);
    });
}

/** Return the pause after so many failures in a row: 1, 2, 4, ... 30 s, and no two browsers in step. */
export function backOff(failures, retryAfter = null) {
    const base = Math.max(retryAfter ?? 0, Math.min(LONGEST_PAUSE_S, 2 ** (failures - 1)));
    return base * (1 + JITTER * Math.random());
}

/**
 * Repeat `ask` for ever.
 * @param {function(AbortSignal): Promise<number|null>} ask returns the pause in seconds, null to stop
 * @param {function(Error, number): boolean} failed told of a failure and the pause; returns whether to go on
 */
export async function follow(ask, failed) {
    for (let failures = 0; ; ) {
        await visible();
        const interrupted = new AbortController();
        const hide = () => document.hidden && interrupted.abort();
        document.addEventListener("visibilitychange", hide);
        let next;
        try {
            next = await ask(interrupted.signal);
            failures = 0;
        } catch (error) {
            if (error.name === "AbortError") continue;
            failures += 1;
            next = backOff(failures, error.retryAfter);
            if (!failed(error, next)) return;
        } finally {
            document.removeEventListener("visibilitychange", hide);
        }
        if (next === null) return;
        await pause(next);
    }
}
