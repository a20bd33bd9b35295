// findings.js: what stands out in each run, in words; every sentence leads to its picture.

/** Opens the section of a finding on the picture that shows it. */
function goTo(finding) {
  const section = themes.find((theme) => theme.theme.name === finding.theme);
  if (!section) return;
  section.show(finding);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.section.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

function findingNode(finding) {
  if (!themes.some((theme) => theme.theme.name === finding.theme)) return element("li", {}, finding.text);
  const link = element("a", { href: "#", title: "Show the picture" }, finding.text);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    goTo(finding);
  });
  return element("li", {}, link);
}

const FIRST_FINDINGS = 5;

function drawFindings(section, into) {
  const measured = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.findings);
  section.hidden = measured.length === 0;
  into.replaceChildren(...measured.map(({ run, index }) => {
    const nodes = run.findings.map(findingNode);
    const box = element("div", { class: "finding" }, runCaption(index).node);
    if (!nodes.length) box.append(element("p", { class: "soft" }, "Nothing crosses a threshold."));
    else box.append(element("ul", {}, ...nodes.slice(0, FIRST_FINDINGS)));
    if (nodes.length > FIRST_FINDINGS) box.append(fold(`${nodes.length - FIRST_FINDINGS} more`, element("ul", {}, ...nodes.slice(FIRST_FINDINGS))));
    return box;
  }));
}
