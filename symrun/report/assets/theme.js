// In the head, so that a page is never drawn in the other colours first.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("symrun-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // a file:// page may have no storage
}
