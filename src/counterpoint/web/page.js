// Comfort only: without this script every figure and figure of speech is still on the page.
"use strict";

// Tables that sort by a tap on a heading.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first || "descending";
      const second = first === "descending" ? "ascending" : "descending";
      const order = head.ariaSort === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// Maps: the nearest dot says what it is, and the same item is ringed in every other map.
const maps = [...document.querySelectorAll("svg.map")].map((svg) => ({ svg, points: null }));
const read = (map) => (map.points ??= [...map.svg.querySelectorAll("path.dots")].flatMap((path) => {
  const places = path.getAttribute("d").match(/M[^h]*/g) || [];
  const items = path.dataset.items.split(" ");
  return places.map((place, i) => {
    const [x, y] = place.slice(1).split(" ").map(Number);
    return { x, y, name: path.dataset.name, item: items[i] };
  });
}));
const sprite = document.getElementById("sprite");
const slots = new Map(sprite ? sprite.dataset.items.split(" ").map((item, i) => [item, i]) : []);
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

const rings = (item) => {
  for (const map of maps) {
    map.svg.querySelector(".ring")?.remove();
    const point = item === null ? null : read(map).find((other) => other.item === item);
    if (!point) continue;
    const ring = document.createElementNS(map.svg.namespaceURI, "circle");
    for (const [key, value] of Object.entries({ cx: point.x, cy: point.y, r: 6, class: "ring" })) ring.setAttribute(key, value);
    map.svg.append(ring);
  }
};
const picture = (item) => {
  const slot = slots.get(item);
  if (slot === undefined) return null;
  const columns = Number(sprite.dataset.columns);
  const image = document.createElement("i");
  image.style.backgroundImage = `url(${sprite.src})`;
  image.style.backgroundSize = `${columns * 64}px auto`;
  image.style.backgroundPosition = `${-64 * (slot % columns)}px ${-64 * Math.floor(slot / columns)}px`;
  return image;
};
const hide = () => { tip.hidden = true; rings(null); };
for (const map of maps) {
  const show = (event) => {
    const box = map.svg.getBoundingClientRect();
    const scale = 320 / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let nearest = null, distance = 16 ** 2;
    for (const point of read(map)) {
      const d = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (d < distance) [nearest, distance] = [point, d];
    }
    if (!nearest) return hide();
    rings(nearest.item);
    tip.replaceChildren(...[picture(nearest.item), `${nearest.name || "item"} (no. ${nearest.item})`].filter(Boolean));
    tip.hidden = false;
    const left = Math.min(event.pageX + 14, scrollX + innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, scrollX + 8)}px`;
    tip.style.top = `${event.pageY + 14}px`;
  };
  map.svg.addEventListener("pointermove", show);
  map.svg.addEventListener("pointerdown", show);
  map.svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
}
document.addEventListener("pointerdown", (event) => event.target.closest?.("svg.map") || hide());
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

// On paper everything is open.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
