// Signing in, and the start.

function showSignIn(needed) {
  const was = $("sign-in").hidden;
  $("sign-in").hidden = !needed;
  $("content").hidden = needed;
  $("sign-out").hidden = needed || token === null;
  if (needed) {
    showLink("waiting", "not signed in");
    if (was) $("token").focus();
  } else if (!was) {
    $("main").focus();
  }
}

$("sign-in").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  token = $("token").value;
  try {
    const status = await (await call("/api/status")).json();
    set("sign-in-fault", "");
    $("token").value = "";
    unlock();
    show(status);
  } catch (error) {
    set("sign-in-fault", error.status === 401 ? "That is not the token." : error.message);
  }
});
$("sign-out").addEventListener("click", () => {
  lock();
  followAnew();
});

async function start() {
  watchStatus();
  watchEvents();
  for (;;) {
    try {
      await refresh();
      return unlock();
    } catch (error) {
      if (error.status === 401) return undefined;
      showLink("lost", "No answer; trying again");
      await pause(RETRY);
    }
  }
}
start();
