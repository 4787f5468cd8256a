"use strict";
/* Draws the plots, and keeps the page fresh by fetching it again. Nothing else needs this. */
(() => {
  const PERIOD = 5000, HEIGHT = 115, FOOT = 16, HEAD = 16;
  const make = (parent, name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  };

  /* A round number that is no less: 1, 2 or 5 times a power of ten. */
  const roundUp = (value) => {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 5, 10].find((step) => step * power >= value) * power;
  };
  const ago = (ms) => ms < 90e3 ? Math.round(ms / 1e3) + " s ago" : Math.round(ms / 6e4) + " min ago";

  let points = [];
  const read = (from) => {
    const text = from.getElementById("history")?.textContent;
    if (text) points = JSON.parse(text);
  };

  const draw = (figure) => {
    const columns = figure.dataset.series.split(" ").map(Number);
    const digits = Number(figure.dataset.digits);
    const width = figure.clientWidth - 36;
    const values = points.flatMap((point) => columns.map((c) => point[c])).filter((v) => v !== null);
    figure.querySelector("svg")?.remove();
    if (points.length < 2 || width < 50) {
      const svg = make(figure, "svg", { role: "img" });
      make(svg, "text", { x: 0, y: HEIGHT / 2 }, "Collecting: a point every ten seconds");
      return;
    }
    const top = roundUp(Math.max(...values, digits ? 10 ** -digits : 1));
    const first = points[0][0], last = points[points.length - 1][0];
    const x = (time) => (time - first) / (last - first) * width;
    const y = (value) => HEIGHT - FOOT - value / top * (HEIGHT - FOOT - HEAD);
    const show = (value) => value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });
    const svg = make(figure, "svg", { role: "img", "aria-label": figure.textContent.trim() + ", now "
      + columns.map((c) => show(points[points.length - 1][c])).join(" and ") });

    for (const level of [0, top]) make(svg, "line", { class: "grid", x1: 0, x2: width, y1: y(level), y2: y(level) });
    make(svg, "text", { x: 0, y: y(top) - 4 }, top.toLocaleString("en"));
    make(svg, "text", { x: 0, y: HEIGHT - 2 }, ago(last - first));
    make(svg, "text", { x: width, y: HEIGHT - 2, "text-anchor": "end" }, "now");
    columns.forEach((column, number) => {
      let path = "", down = false;
      for (const point of points) {
        if (point[column] === null) { down = false; continue; }
        path += (down ? "L" : "M") + x(point[0]).toFixed(1) + " " + y(point[column]).toFixed(1);
        down = true;
      }
      if (!number && columns.length === 1) make(svg, "path", { class: "area", d: path + `L${width} ${y(0)}L0 ${y(0)}Z` });
      make(svg, "path", { class: number ? "curve second" : "curve", d: path });
    });

    const hair = make(svg, "line", { class: "hair", y1: y(top), y2: y(0), visibility: "hidden" });
    const label = make(svg, "text", { class: "value", x: width, y: y(top) - 4, "text-anchor": "end" });
    const tell = (point) => {
      label.textContent = columns.map((c) => show(point[c])).join(" · ");
    };
    tell(points[points.length - 1]);
    svg.onpointermove = (event) => {
      const at = first + (event.clientX - svg.getBoundingClientRect().left) / width * (last - first);
      const near = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      hair.setAttribute("x1", x(near[0]));
      hair.setAttribute("x2", x(near[0]));
      hair.setAttribute("visibility", "visible");
      tell(near);
    };
    svg.onpointerleave = () => {
      hair.setAttribute("visibility", "hidden");
      tell(points[points.length - 1]);
    };
  };
  const drawAll = () => document.querySelectorAll("figure[data-series]").forEach(draw);

  let pressed = false;
  addEventListener("pointerdown", () => { pressed = true; });
  addEventListener("pointerup", () => { setTimeout(() => { pressed = false; }, 300); });
  const refresh = async () => {
    if (document.hidden || pressed) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", credentials: "same-origin" });
      if (!answer.ok || pressed) return;
      /* Its style has another nonce than this page, and is the same anyway. */
      const text = (await answer.text()).replace(/<style[^]*?<\/style>/, "");
      const fresh = new DOMParser().parseFromString(text, "text/html");
      const focus = document.activeElement?.value;
      for (const part of document.querySelectorAll("[data-live]")) {
        const newer = fresh.getElementById(part.id);
        if (newer && newer.innerHTML !== part.innerHTML) part.replaceChildren(...newer.childNodes);
      }
      if (focus) document.querySelector(`button[value="${CSS.escape(focus)}"]`)?.focus();
      read(fresh);
      if (!document.querySelector("figure svg:hover")) drawAll();
    } catch { /* The gateway is restarting, or the network is away: the next time will tell. */ }
  };

  document.addEventListener("submit", (event) => {
    const who = event.submitter?.dataset.who;
    if (who && !confirm(`End this stream of ${who}?`)) event.preventDefault();
  });
  if (location.search) history.replaceState(null, "", location.pathname);
  read(document);
  drawAll();
  new ResizeObserver(drawAll).observe(document.querySelector(".plots"));
  setInterval(refresh, PERIOD);
})();
