// A certified OpenID provider (npm's oidc-provider) for tests: node oidc_provider.mjs MODULE PORT REDIRECT SECRET
// Whoever signs in as NAME is NAME@example.com; any password does.
const [module, port, redirect, secret] = process.argv.slice(2);
const { default: Provider } = await import(module);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ client_id: "modelsync", client_secret: secret, redirect_uris: [redirect] }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  cookies: { keys: ["for tests"] },
  async findAccount(_, id) {
    return { accountId: id, async claims() { return { sub: id, email: `${id}@example.com`, email_verified: true }; } };
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
