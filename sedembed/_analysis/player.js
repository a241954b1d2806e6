// Plays recordings that lie where the page expects them, relative to itself; says so where they do not.
const player = (() => {
  const audio = document.querySelector("audio"), bar = document.getElementById("player"), said = bar.querySelector(".said");
  const address = path => (path.startsWith("/") || /^[a-z]:\//i.test(path) ? "file://" + (path.startsWith("/") ? "" : "/") : "")
    + path.split("/").map((part, i) => i === 0 && /^[a-z]:$/i.test(part) ? part : encodeURIComponent(part)).join("/");
  let current = null, wanted = 0;
  audio.addEventListener("error", () => {
    if (!current) return;
    audio.hidden = true;
    said.textContent = (audio.error && audio.error.code === 3 || audio.error && audio.error.code === 4 && audio.readyState > 0
      ? "The browser cannot play " : "No sound that the browser can play is at ")
      + current + ". The page looks for recordings relative to itself: keep both where they are to each other.";
  });
  audio.addEventListener("loadedmetadata", () => { if (wanted) audio.currentTime = wanted; });
  return {
    audio,
    play(path, name, seconds = 0) {
      bar.hidden = false; audio.hidden = false;
      said.textContent = name;
      wanted = seconds;
      if (current !== path) { current = path; audio.src = address(path); }
      else if (audio.readyState) audio.currentTime = seconds;
      audio.play().catch(() => {});  // the event "error" says what is wrong
    },
    toggle() { if (current) { if (audio.paused) audio.play().catch(() => {}); else audio.pause(); } },
  };
})();
