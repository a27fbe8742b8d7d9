// SPDX-License-Identifier: Apache-2.0
// Numbers, times and names as a person reads them.

import { language, t, word } from "./i18n.js";

/** Return a share of 1 as percent. */
export function percent(share, digits = 0) {
    return new Intl.NumberFormat(language, {
        style: "percent",
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
    }).format(share);
}

/** Return a number with at most so many digits after the point. */
export function number(value, digits = 0) {
    return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

/** Return a number with so many significant digits. */
export function significant(value, digits = 3) {
    return new Intl.NumberFormat(language, { maximumSignificantDigits: digits }).format(value);
}

/** Return the state of a request in words; of a waiting one, what it waits for. */
export function stateWords({ status, waits_for: awaited }) {
    if (awaited === "slide") return t("status.arriving");
    return awaited === "retry" ? t("status.retrying") : word("status", status);
}

/** Return how much of the work on a running request is done, 0 to 1. */
export function shareDone({ status, progress }) {
    return status === "publishing" ? 1 : (progress ?? 0);
}

/** Return a UTC time stamp as local date and time. */
export function moment(stamp) {
    const date = new Date(stamp);
    if (!stamp || Number.isNaN(date.getTime())) return "";
    return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" }).format(date);
}

/** Return a DICOM date (YYYYMMDD) in the order that cannot be misread, YYYY-MM-DD. */
export function dicomDate(text) {
    const match = /^(\d{4})\.?(\d{2})\.?(\d{2})/.exec(text ?? "");
    return match ? `${match[1]}-${match[2]}-${match[3]}` : "";
}

/** Return a DICOM person name ("Kim^Min^^^") with spaces; of several groups the first that is not empty. */
export function personName(text) {
    const group = (text ?? "").split("=").find((part) => part.trim()) ?? "";
    return group.split("^").filter(Boolean).join(" ").trim();
}

/** Return a duration in its one or two largest units. */
export function duration(seconds) {
    if (seconds < 1) return t("time.s", { s: significant(seconds, 2) });
    if (seconds < 60) return t("time.s", { s: number(seconds, seconds < 10 ? 1 : 0) });
    const whole = Math.round(seconds);
    if (whole < 3600) return t("time.min", { min: Math.floor(whole / 60), s: whole % 60 });
    if (whole < 86400) return t("time.h", { h: Math.floor(whole / 3600), min: Math.floor((whole % 3600) / 60) });
    return t("time.d", { d: Math.floor(whole / 86400), h: Math.floor((whole % 86400) / 3600) });
}

/** Return how long ago a time stamp was, never negative (two clocks may differ). */
export function age(stamp, now = Date.now()) {
    return duration(Math.max(0, Math.floor((now - new Date(stamp).getTime()) / 1000)));
}

/** Return a size of a file. */
export function bytes(size) {
    if (size < 1e3) return `${size} B`;
    return size < 1e6 ? `${number(size / 1e3)} kB` : `${number(size / 1e6, 1)} MB`;
}
